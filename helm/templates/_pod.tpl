{{- /* What pods and containers of the chart have in common, and where values add to them. */ -}}

{{- /* A pod's template: its metadata, and the spec below. Beside what that takes:
       labels, annotations: further ones of the chart's own */ -}}
{{- define "mimo.podTemplate" -}}
{{- $common := .root.Values -}}
metadata:
  labels:
    {{- include "mimo.podLabels" (list .root .component) | nindent 4 }}
    {{- with merge (dict) (.labels | default dict) (.values.podLabels | default dict) $common.commonLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with merge (dict) (.annotations | default dict) (.values.podAnnotations | default dict) $common.commonAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  {{- include "mimo.podSpec" . | nindent 2 }}
{{- end }}

{{- /* What a pod runs. Its parts are named by the templates that write them, each of a container, or of some volumes;
       (list name argument) where one is given something else than the rest.
       root: the chart
       component: whose pod it is
       values, path: the component's values, and where they stand
       of: what the named templates are given; without, the chart
       initContainers, containers, volumes: names of templates
       account: its service account; without, the namespace's own
       token: whether that is mounted into every container
       grace: seconds from the wish to end to the forced end; without, as Kubernetes has it
       restart: its restart policy; without, as Kubernetes has it
       apart: whether its pods had better be on several nodes
       stock: whether its main image is of others, and runs as whom it likes
       claims: of devices
       hostNetwork: whether it uses its node's network */ -}}
{{- define "mimo.podSpec" -}}
{{- $values := .values -}}
{{- $of := .of | default .root -}}
automountServiceAccountToken: {{ .token | default false }}
{{- with .account }}
serviceAccountName: {{ . | quote }}
{{- end }}
enableServiceLinks: false
{{- with .restart }}
restartPolicy: {{ . }}
{{- end }}
{{- with .grace }}
terminationGracePeriodSeconds: {{ int . }}
{{- end }}
{{- if .hostNetwork }}
hostNetwork: true
dnsPolicy: ClusterFirstWithHostNet
{{- end }}
securityContext:
  {{- include "mimo.podSecurity" . | trim | nindent 2 }}
{{- with .root.Values.global.imagePullSecrets }}
imagePullSecrets:
  {{- range uniq . }}
  - name: {{ . | quote }}
  {{- end }}
{{- end }}
{{- include "mimo.placement" . }}
{{- include "mimo.checkContainers" . }}
{{- if or .initContainers $values.initContainers }}
initContainers:
  {{- include "mimo.items" (list 2 $values.initContainers) }}
  {{- range .initContainers }}
  - {{- include "mimo.part" (list . $of) | trim | nindent 4 }}
  {{- end }}
{{- end }}
containers:
  {{- range .containers }}
  - {{- include "mimo.part" (list . $of) | trim | nindent 4 }}
  {{- end }}
  {{- include "mimo.items" (list 2 $values.sidecars) }}
{{- with .claims }}
resourceClaims:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- $volumes := include "mimo.joined" (list .volumes $of) }}
volumes:
  {{- include "mimo.added" (list $volumes $values.extraVolumes "name" (printf "%s.extraVolumes" .path)) | nindent 2 }}
{{- end }}

{{- /* Where it runs. */ -}}
{{- define "mimo.placement" -}}
{{- $values := .values -}}
{{- $selector := include "mimo.selector" (list .root .component) -}}
{{- with $values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if $values.affinity }}
affinity:
  {{- toYaml $values.affinity | nindent 2 }}
{{- else if .apart }}
affinity:
  podAntiAffinity:
    preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 100
        podAffinityTerm:
          topologyKey: kubernetes.io/hostname
          labelSelector:
            matchLabels:
              {{- $selector | nindent 14 }}
{{- end }}
{{- with $values.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- range . }}
  - {{- toYaml . | nindent 4 }}
    {{- if not .labelSelector }}
    labelSelector:
      matchLabels:
        {{- $selector | nindent 8 }}
    {{- end }}
  {{- end }}
{{- end }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- end }}

{{- /* As whom it runs: Pod Security "restricted", but for images of others. What values say stays within that. */ -}}
{{- define "mimo.podSecurity" -}}
{{- $given := .values.podSecurityContext -}}
{{- if .stock -}}
{{- $given = omit $given "runAsUser" "runAsGroup" -}}
{{- else -}}
runAsNonRoot: true
{{- end }}
{{- range $name, $value := $given }}
{{- if or $value (kindIs "int64" $value) (kindIs "float64" $value) }}
{{ toYaml (dict $name $value) }}
{{- end }}
{{- end }}
{{- end }}

{{- define "mimo.security" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- /* What a container is told and sees, and what its values add to that.
       of: what the named templates are given
       values, path: of the container, and where they stand
       variables, mounts: names of templates
       preset: variables that values may change */ -}}
{{- define "mimo.surroundings" -}}
{{- $values := .values -}}
{{- $variables := include "mimo.joined" (list .variables .of) -}}
{{- $more := list -}}
{{- $preset := .preset | default dict -}}
{{- range $name := concat (keys $preset) (keys $values.env) | uniq | sortAlpha -}}
{{- $more = append $more (dict "name" $name "value" (get (ternary $values.env $preset (hasKey $values.env $name)) $name | toString)) -}}
{{- end -}}
env:
  {{- include "mimo.added" (list $variables (concat $more $values.extraEnv) "name" (printf "%s.env" .path)) | trim | nindent 2 }}
{{- with $values.envFrom }}
envFrom:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- $mounts := include "mimo.joined" (list .mounts .of) }}
volumeMounts:
  {{- include "mimo.added" (list $mounts $values.extraVolumeMounts "mountPath" (printf "%s.extraVolumeMounts" .path)) | nindent 2 }}
{{- end }}

{{- /* (list given period timeout failures) -> the times of a probe: s, s, and how often it may fail; what is given comes
       first */ -}}
{{- define "mimo.times" -}}
{{- $given := index . 0 -}}
periodSeconds: {{ int ($given.periodSeconds | default (index . 1)) }}
timeoutSeconds: {{ int ($given.timeoutSeconds | default (index . 2)) }}
failureThreshold: {{ int ($given.failureThreshold | default (index . 3)) }}
{{- end }}

{{- /* (list given seconds) -> what is done at the start and before the end of a container: the chart's own waits so long,
       until nobody sends there any more */ -}}
{{- define "mimo.lifecycle" -}}
{{- $given := index . 0 }}
{{- $hooks := dict }}
{{- with index . 1 }}
{{- $_ := set $hooks "preStop" (dict "sleep" (dict "seconds" (int .))) }}
{{- end }}
{{- range $hook, $what := $given }}
{{- with $what }}
{{- $_ := set $hooks $hook . }}
{{- end }}
{{- end }}
{{- with $hooks }}
lifecycle:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- /* (list name-or-pair of) -> what it writes */ -}}
{{- define "mimo.part" -}}
{{- if kindIs "string" (index . 0) -}}
{{ include (index . 0) (index . 1) }}
{{- else -}}
{{ include (index . 0 0) (index . 0 1) }}
{{- end -}}
{{- end }}

{{- /* (list parts of) -> what they write, one after the other */ -}}
{{- define "mimo.joined" -}}
{{- $of := index . 1 -}}
{{- $texts := list -}}
{{- range index . 0 -}}
{{- $texts = append $texts (include "mimo.part" (list . $of) | trim) -}}
{{- end -}}
{{- compact $texts | join "\n" -}}
{{- end }}

{{- /* (list own given key place) -> the chart's own items of a list, and those given: no two may be of one name */ -}}
{{- define "mimo.added" -}}
{{- index . 0 }}
{{- with index . 1 }}
{{- $key := index $ 2 }}
{{- $known := list }}
{{- range fromYamlArray (index $ 0) }}
{{- $known = append $known (get . $key) }}
{{- end }}
{{- range . }}
{{- if has (get . $key) $known }}
{{- fail (printf "\n\n%s: there is a %s %s already; take it away, or choose another" (index $ 3) $key (get . $key)) }}
{{- end }}
{{- $known = append $known (get . $key) }}
{{- end }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* Containers that values bring: they have names and images as the chart's own have. */ -}}
{{- define "mimo.checkContainers" -}}
{{- $pod := . -}}
{{- with concat (.values.initContainers | default list) (.values.sidecars | default list) }}
{{- $known := list }}
{{- range concat ($pod.initContainers | default list) $pod.containers }}
{{- $known = append $known (include "mimo.part" (list . ($pod.of | default $pod.root)) | fromYaml).name }}
{{- end }}
{{- range . }}
{{- if has .name $known }}
{{- fail (printf "\n\n%s: there is a container %s already; give yours another name" $pod.path .name) }}
{{- end }}
{{- $known = append $known .name }}
{{- if and $pod.root.Values.global.requireDigests (not (include "mimo.isPinned" .image)) }}
{{- fail (printf "\n\nglobal.requireDigests is set, but the image %s of the container %s in %s has none: name it by its digest" .image .name $pod.path) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- /* (list indentation items) -> items of a list or map that has others */ -}}
{{- define "mimo.items" -}}
{{- with index . 1 }}
{{- toYaml . | nindent (index $ 0) }}
{{- end }}
{{- end }}

{{- /* A volume for what a program writes by the way, and where it is */ -}}
{{- define "mimo.tmpVolume" -}}
- name: tmp
  emptyDir: {}
{{- end }}

{{- define "mimo.tmpMount" -}}
- name: tmp
  mountPath: /tmp
{{- end }}

{{- /* (list . component values) -> its account, if it is made */ -}}
{{- define "mimo.serviceAccount" -}}
{{- $root := index . 0 -}}
{{- $values := index . 2 -}}
{{- if $values.serviceAccount.create }}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ include "mimo.account" . | quote }}
  namespace: {{ $root.Release.Namespace | quote }}
  {{- include "mimo.about" (list $root (index . 1) $values.serviceAccount.annotations) | nindent 2 }}
automountServiceAccountToken: false
{{- end }}
{{- end }}

{{- /* (list . component values) -> its budget for drains. maxUnavailable, and never minAvailable: that would stop every
       drain where there is one pod. */ -}}
{{- define "mimo.disruptionBudget" -}}
{{- $mine := list (index . 0) (index . 1) }}
{{- if (index . 2).pdb }}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  {{- include "mimo.metadata" $mine | nindent 2 }}
spec:
  maxUnavailable: 1
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- include "mimo.selector" $mine | nindent 6 }}
{{- end }}
{{- end }}

{{- /* (list . secret values) -> the name of the Secret that holds a key */ -}}
{{- define "mimo.keySecret" -}}
{{ (index . 1).existing | default (printf "%s-keys" (include "mimo.fullname" (index . 0))) }}
{{- end }}

{{- /* (list . component claim values) -> a claim */ -}}
{{- define "mimo.claimSpec" -}}
{{- $root := index . 0 -}}
{{- $volume := index . 1 -}}
accessModes: [{{ $volume.accessMode | default "ReadWriteOnce" }}]
{{- with $root.Values.global.storageClass }}
storageClassName: {{ . | quote }}
{{- end }}
resources:
  requests:
    storage: {{ $volume.size }}
{{- end }}

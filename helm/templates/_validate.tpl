{{- /* What each value allows by itself is in the schema. Here is what they do not allow together, with what to do. */ -}}
{{- define "mimo.validate" -}}
{{- include "mimo.checkAllThere" . }}
{{- $server := .Values.modelServer }}
{{- $router := .Values.router }}
{{- $api := .Values.api }}
{{- $sqlite := eq .Values.database.mode "sqlite" }}
{{- $problems := list }}

{{- /* Pods of a StatefulSet have a label of its name and 11 characters more, which may be 63: names of 52. Those of a
       LeaderWorkerSet's groups have a number of the group in between. */}}
{{- $longest := ternary 36 39 $server.leaderWorkerSet.enabled }}
{{- if gt (len (include "mimo.fullname" .)) $longest }}
{{- $problems = append $problems (printf "the release's name %q is longer than %d characters, and pods could not be named after it; use a shorter one, or fullnameOverride" (include "mimo.fullname" .) $longest) }}
{{- end }}

{{- if not (regexMatch "^[a-z]" (include "mimo.fullname" .)) }}
{{- $problems = append $problems (printf "the release's name %q does not begin with a letter, as names of services must; use another, or fullnameOverride" (include "mimo.fullname" .)) }}
{{- end }}

{{- $labelled := dict "commonLabels" .Values.commonLabels "monitoring.labels" .Values.monitoring.labels }}
{{- range $place, $pods := dict
    "modelServer" $server "router" $router "api" $api "orchestrator" .Values.orchestrator "database" .Values.database
    "sandbox.ray" .Values.sandbox.ray }}
{{- $_ := set $labelled (printf "%s.podLabels" $place) $pods.podLabels }}
{{- range $kind := list "seccompProfile" "appArmorProfile" }}
{{- $profile := get $pods.podSecurityContext $kind }}
{{- if ne (eq ($profile.type | default "") "Localhost") (ne ($profile.localhostProfile | default "") "") }}
{{- $problems = append $problems (printf "%s.podSecurityContext.%s: a profile of the node's has both type Localhost and a localhostProfile, and no other has one" $place $kind) }}
{{- end }}
{{- end }}
{{- end }}
{{- $own := keys (fromYaml (include "mimo.ownLabels" (list . "api"))) }}
{{- range $place, $labels := $labelled }}
{{- range $label, $_ := $labels }}
{{- if or (has $label $own) (hasPrefix "mimo-coder/" $label) }}
{{- $problems = append $problems (printf "%s.%s: by this label the chart finds its own; take it away, or choose another" $place $label) }}
{{- end }}
{{- end }}
{{- end }}
{{- if $sqlite }}
{{- range $part := list "nodeSelector" "tolerations" "affinity" "topologySpreadConstraints" "priorityClassName" "podLabels" "podAnnotations" "initContainers" "sidecars" }}
{{- if get $.Values.orchestrator $part }}
{{- $problems = append $problems (printf "orchestrator.%s: database.mode is sqlite, so workers are in the pods of the API; say it in api.%s" $part $part) }}
{{- end }}
{{- end }}
{{- end }}

{{- if and $sqlite (or (gt (int $api.replicas) 1) (gt (int .Values.orchestrator.replicas) 1) $api.autoscaling.enabled) }}
{{- $problems = append $problems "database.mode is sqlite, a file for one pod: leave api.replicas and orchestrator.replicas at 1 and api.autoscaling off, or set database.mode to embedded or external" }}
{{- end }}
{{- if and (not $sqlite) (or (gt (int .Values.orchestrator.replicas) 1) (gt (int $api.replicas) 1)) (not .Values.data.existingClaim) (ne .Values.data.accessMode "ReadWriteMany") }}
{{- $problems = append $problems "data.accessMode is ReadWriteOnce, but several pods share the data: set it to ReadWriteMany, with a storage class that has it" }}
{{- end }}
{{- if and (eq .Values.database.mode "external") (not .Values.database.urlSecret) }}
{{- $problems = append $problems "database.mode is external: name in database.urlSecret a Secret whose key url is postgresql://..." }}
{{- end }}
{{- if and (eq .Values.database.migrations "hook") (ne .Values.database.mode "external") }}
{{- $problems = append $problems (printf "database.migrations is hook, a Job before anything else of the release, and database.mode is %s: such a database is not there yet; set database.migrations to init, or database.mode to external" .Values.database.mode) }}
{{- end }}

{{- if and .Values.evals.configMap .Values.evals.existingClaim }}
{{- $problems = append $problems "evals.configMap and evals.existingClaim are both set: suites come from one of them" }}
{{- end }}
{{- if and $api.autoscaling.enabled (lt (int $api.autoscaling.maxReplicas) (int $api.autoscaling.minReplicas)) }}
{{- $problems = append $problems "api.autoscaling.maxReplicas is less than minReplicas" }}
{{- end }}
{{- if and $api.autoscaling.enabled (not $api.resources.requests.cpu) }}
{{- $problems = append $problems "api.autoscaling is by a share of the processor time that is reserved, and none is: set api.resources.requests.cpu" }}
{{- end }}
{{- if and $api.ingress.enabled $api.httpRoute.enabled }}
{{- $problems = append $problems "api.ingress and api.httpRoute are both enabled: enable one of them" }}
{{- end }}
{{- if and $api.ingress.enabled (not $api.ingress.hosts) }}
{{- $problems = append $problems "api.ingress is enabled: name its hosts in api.ingress.hosts" }}
{{- end }}
{{- if and $api.httpRoute.enabled (not $api.httpRoute.parents) }}
{{- $problems = append $problems "api.httpRoute is enabled: name its gateways in api.httpRoute.parents" }}
{{- end }}

{{- if eq $server.engine "external" }}
{{- if not $server.url }}
{{- $problems = append $problems "modelServer.engine is external: set modelServer.url to its address, up to and including /v1" }}
{{- end }}
{{- if $router.enabled }}
{{- $problems = append $problems "router.enabled: there are no model servers of this release to route to; switch it off, or set modelServer.engine to sglang or embedded" }}
{{- end }}
{{- end }}
{{- if eq $server.engine "sglang" }}
{{- $weights := $server.weights }}
{{- range $source, $needed := dict "claim" "claim" "hostPath" "hostPath" "image" "image" "download" "revision" "job" "revision" }}
{{- if and (eq $weights.source $source) (not (get $weights $needed)) }}
{{- $problems = append $problems (printf "modelServer.weights.source is %s: set modelServer.weights.%s" $source $needed) }}
{{- end }}
{{- end }}
{{- if and (eq $weights.source "image") (semverCompare "<1.31.0-0" .Capabilities.KubeVersion.Version) }}
{{- $problems = append $problems (printf "modelServer.weights.source is image: volumes out of images are in Kubernetes 1.31 and later, and this is %s; use another source" .Capabilities.KubeVersion.Version) }}
{{- end }}
{{- $gpus := int (fromJson (include "mimo.launchSettings" .)).gpus }}
{{- if mod $gpus (int (include "mimo.sglangNodes" .)) }}
{{- $problems = append $problems (printf "modelServer.sglang.settings.gpus is %d, which %s nodes cannot share evenly; use a multiple" $gpus (include "mimo.sglangNodes" .)) }}
{{- end }}
{{- if and $server.sglang.gpuClaim.deviceClass (semverCompare "<1.34.0-0" .Capabilities.KubeVersion.Version) }}
{{- $problems = append $problems (printf "modelServer.sglang.gpuClaim: claims of devices are in Kubernetes 1.34 and later, and this is %s; leave deviceClass empty, and GPUs are asked for as gpuResource" .Capabilities.KubeVersion.Version) }}
{{- end }}
{{- if and $server.sglang.rdma.hostNetwork (not $server.leaderWorkerSet.enabled) }}
{{- $problems = append $problems "modelServer.sglang.rdma.hostNetwork is for engines over several nodes only; leave it off, or enable modelServer.leaderWorkerSet" }}
{{- end }}
{{- end }}

{{- if $server.leaderWorkerSet.enabled }}
{{- if ne $server.engine "sglang" }}
{{- $problems = append $problems "modelServer.leaderWorkerSet is enabled: only modelServer.engine sglang runs over several nodes" }}
{{- end }}
{{- if not (or $server.leaderWorkerSet.assumeInstalled (.Capabilities.APIVersions.Has "leaderworkerset.x-k8s.io/v1/LeaderWorkerSet")) }}
{{- $problems = append $problems "modelServer.leaderWorkerSet is enabled, but the cluster does not know it: install LeaderWorkerSet (leaderworkerset.x-k8s.io/v1), or set modelServer.leaderWorkerSet.assumeInstalled" }}
{{- end }}
{{- if $server.autoscaling.enabled }}
{{- $problems = append $problems "modelServer.autoscaling and modelServer.leaderWorkerSet are both enabled: groups of nodes are not scaled by this chart; disable one of them" }}
{{- end }}
{{- if or (eq $server.compileCache.source "claim") (eq $server.weights.source "download") }}
{{- $problems = append $problems "modelServer.leaderWorkerSet is enabled, and its pods have no claims of their own: set modelServer.compileCache.source to hostPath or none, and modelServer.weights.source to anything but download" }}
{{- end }}
{{- end }}

{{- if $server.autoscaling.enabled }}
{{- if not (or $server.autoscaling.assumeInstalled (.Capabilities.APIVersions.Has "keda.sh/v1alpha1/ScaledObject")) }}
{{- $problems = append $problems "modelServer.autoscaling is enabled, but the cluster does not know KEDA: install it, or set modelServer.autoscaling.assumeInstalled" }}
{{- end }}
{{- if not $server.autoscaling.prometheus }}
{{- $problems = append $problems "modelServer.autoscaling is enabled: set modelServer.autoscaling.prometheus to the address of Prometheus" }}
{{- end }}
{{- if lt (int $server.autoscaling.maxReplicas) (int $server.autoscaling.minReplicas) }}
{{- $problems = append $problems "modelServer.autoscaling.maxReplicas is less than minReplicas" }}
{{- end }}
{{- if and $router.enabled (eq $router.discovery "static") }}
{{- $problems = append $problems "modelServer.autoscaling is enabled, but router.discovery is static, so new servers would get nothing: set it to kubernetes" }}
{{- end }}
{{- end }}

{{- if $router.enabled }}
{{- if and (has $router.policy (list "manual" "cache_aware")) (gt (int $router.replicas) 1) }}
{{- $problems = append $problems (printf "router.policy %s keeps state that routers do not share: set router.replicas to 1, or router.policy to consistent_hashing" $router.policy) }}
{{- end }}
{{- if lt (int $router.terminationGracePeriodSeconds) (int $server.terminationGracePeriodSeconds) }}
{{- $problems = append $problems "router.terminationGracePeriodSeconds is less than modelServer.terminationGracePeriodSeconds, so a router would cut answers that a server still gives: raise it" }}
{{- end }}
{{- else if and (gt (int $server.replicas) 1) (ne $server.engine "external") }}
{{- $problems = append $problems "modelServer.replicas is more than 1 without a router, so turns of one task would meet cold caches: enable router, or leave it at 1" }}
{{- end }}
{{- if ge (int $server.preStopSeconds) (int $server.terminationGracePeriodSeconds) }}
{{- $problems = append $problems "modelServer.terminationGracePeriodSeconds must be more than modelServer.preStopSeconds, or nothing is left for running answers" }}
{{- end }}

{{- if .Values.networkPolicy.enabled }}
{{- if not .Values.networkPolicy.apiServer.cidrs }}
{{- $problems = append $problems "networkPolicy.apiServer.cidrs is empty, so nobody could make sandboxes: list the addresses of the API server (kubectl get endpointslices --selector kubernetes.io/service-name=kubernetes)" }}
{{- end }}
{{- if and .Values.telemetry.endpoint (not .Values.telemetry.collectors) }}
{{- $problems = append $problems "telemetry.endpoint is set, and networkPolicy is enabled: say in telemetry.collectors where it is, as peers of a policy" }}
{{- end }}
{{- if eq .Values.networkPolicy.flavor "cilium" }}
{{- if not .Values.repositories.hosts }}
{{- $problems = append $problems "networkPolicy.flavor is cilium, by which workers reach hosts by their names: list git hosts in repositories.hosts" }}
{{- end }}
{{- if not (or .Values.networkPolicy.assumeInstalled (.Capabilities.APIVersions.Has "cilium.io/v2/CiliumNetworkPolicy")) }}
{{- $problems = append $problems "networkPolicy.flavor is cilium, but the cluster does not know it: install Cilium, set networkPolicy.assumeInstalled, or set networkPolicy.flavor to kubernetes" }}
{{- end }}
{{- end }}
{{- if and (eq $server.engine "external") (not $server.cidrs) }}
{{- $problems = append $problems "modelServer.engine is external, and networkPolicy is enabled: list its addresses in modelServer.cidrs" }}
{{- end }}
{{- if and (eq .Values.database.mode "external") (not .Values.database.cidrs) }}
{{- $problems = append $problems "database.mode is external, and networkPolicy is enabled: list its addresses in database.cidrs" }}
{{- end }}
{{- end }}

{{- if and .Values.sandbox.egress.allow_hosts (eq (.Values.sandbox.settings.network | default "sealed") "sealed") }}
{{- $problems = append $problems "sandbox.egress.allow_hosts names hosts, but commands of sealed sandboxes open no socket: set sandbox.settings.network to fence or policy, or name none" }}
{{- end }}
{{- $ray := .Values.sandbox.ray }}
{{- if and $sqlite (ne $ray.mode "none") }}
{{- $problems = append $problems (printf "sandbox.ray.mode is %s, whose machines need the list of sandboxes, and database.mode is sqlite, a file for one pod: set database.mode to embedded or external, or sandbox.ray.mode to none" $ray.mode) }}
{{- end }}
{{- if and (has $ray.mode (list "pods" "kuberay")) (not .Values.data.existingClaim) (ne .Values.data.accessMode "ReadWriteMany") }}
{{- $problems = append $problems (printf "sandbox.ray.mode is %s, whose machines share the data of workers: set data.accessMode to ReadWriteMany, with a storage class that has it" $ray.mode) }}
{{- end }}
{{- if and (eq $ray.mode "kuberay") (not (or $ray.assumeInstalled (.Capabilities.APIVersions.Has "ray.io/v1/RayCluster"))) }}
{{- $problems = append $problems "sandbox.ray.mode is kuberay, but the cluster does not know it: install the KubeRay operator (ray.io/v1), set sandbox.ray.assumeInstalled, or set sandbox.ray.mode to pods" }}
{{- end }}
{{- if eq $ray.mode "external" }}
{{- if not $ray.address }}
{{- $problems = append $problems "sandbox.ray.mode is external: set sandbox.ray.address to ray://HOST:10001" }}
{{- end }}
{{- if not $ray.token.existing }}
{{- $problems = append $problems "sandbox.ray.mode is external: name in sandbox.ray.token.existing a Secret whose key ray-token is the token of that cluster" }}
{{- end }}
{{- if and .Values.networkPolicy.enabled (not $ray.cidrs) }}
{{- $problems = append $problems "sandbox.ray.mode is external, and networkPolicy is enabled: list its addresses in sandbox.ray.cidrs" }}
{{- end }}
{{- end }}
{{- if eq .Release.Namespace (include "mimo.sandboxNamespace" .) }}
{{- $problems = append $problems "sandbox.namespace.name is the release's own namespace; sandboxes need one for themselves" }}
{{- end }}

{{- if and .Values.global.requireDigests .Values.sandbox.prepull.enabled }}
{{- range .Values.sandbox.prepull.images }}
{{- if not (include "mimo.isPinned" .) }}
{{- $problems = append $problems (printf "global.requireDigests is set, but %s in sandbox.prepull.images has none: name it as IMAGE@sha256:..." .) }}
{{- end }}
{{- end }}
{{- end }}
{{- with .Values.sandbox.bounds.registry }}
{{- if not (and $.Values.sandbox.taskImage.digest (hasPrefix . (include "mimo.image" (list $ $.Values.sandbox.taskImage)))) }}
{{- $problems = append $problems (printf "sandbox.bounds.registry is %s, and the default image of tasks would be refused: set sandbox.taskImage.digest, and take it from there" .) }}
{{- end }}
{{- end }}

{{- with $problems }}
{{- fail (printf "\n\nthese values cannot be together:\n- %s\n" (join "\n- " .)) }}
{{- end }}
{{- if eq $server.engine "sglang" }}
{{- include "mimo.checkFlags" . }}
{{- end }}
{{- end }}

{{- /* A value that is missing would be taken for 0, or off. */ -}}
{{- define "mimo.checkAllThere" -}}
{{- $missing := list }}
{{- range $path := fromJsonArray (.Files.Get "files/needed.json") }}
{{- $found := $.Values }}
{{- $isThere := true }}
{{- range splitList "." $path }}
{{- if and $isThere (kindIs "map" $found) (hasKey $found .) }}
{{- $found = get $found . }}
{{- else }}
{{- $isThere = false }}
{{- end }}
{{- end }}
{{- if not $isThere }}
{{- $missing = append $missing $path }}
{{- end }}
{{- end }}
{{- with $missing }}
{{- fail (printf "\n\nthese values are missing:\n- %s\nAfter an upgrade of the chart with --reuse-values those that came with it are: use --reset-then-reuse-values. Where they were set to null, leave them out.\n" (join "\n- " .)) }}
{{- end }}
{{- end }}

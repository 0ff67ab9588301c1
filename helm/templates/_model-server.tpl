{{- /* Pods of model servers: with the engine of our own, or in front of SGLang. */ -}}

{{- define "mimo.modelServerContainer" -}}
name: model-server
image: {{ include "mimo.image" (list . .Values.modelServer.image) }}
imagePullPolicy: {{ .Values.global.pullPolicy }}
command: [python, -P, -m, model_server]
env:
  - name: MIMO_MODEL_API_KEY
    valueFrom:
      secretKeyRef:
        name: {{ include "mimo.keySecret" (list . .Values.modelServer.key) }}
        key: model-api-key
  {{- include "mimo.variables" .Values.modelServer.env | nindent 2 }}
{{- include "mimo.envFrom" .Values.modelServer }}
ports:
  - name: http
    containerPort: 9001
# Ready is who generates: /health wants a token of the last ten seconds, or one now.
readinessProbe:
  httpGet: {path: /health, port: http}
  periodSeconds: 10
  timeoutSeconds: 15
  failureThreshold: 3
livenessProbe:
  httpGet: {path: /livez, port: http}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  {{- include "mimo.security" . | nindent 2 }}
resources:
  {{- toYaml .Values.modelServer.resources | nindent 2 }}
{{- end }}

{{- define "mimo.modelServerPod" -}}
serviceAccountName: {{ include "mimo.account" (list . "model-server" .Values.modelServer) }}
automountServiceAccountToken: false
enableServiceLinks: false
terminationGracePeriodSeconds: {{ int .Values.modelServer.terminationGracePeriodSeconds }}
{{- end }}

{{- define "mimo.embeddedPod" -}}
{{ include "mimo.modelServerPod" . }}
securityContext:
  {{- include "mimo.podSecurity" . | nindent 2 }}
{{- include "mimo.placement" (list . "model-server" .Values.modelServer) }}
containers:
  - {{- include "mimo.modelServerContainer" . | nindent 4 }}
    args:
      - --checkpoint={{ .Values.modelServer.checkpoint }}
      - --host=0.0.0.0
      - --port=9001
      {{- with .Values.modelServer.extraArgs }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
    startupProbe:
      httpGet: {path: /health, port: http}
      periodSeconds: 1
      timeoutSeconds: 15
      failureThreshold: 300
    {{- with .Values.modelServer.preStopSeconds }}
    lifecycle:
      preStop:
        sleep: {seconds: {{ int . }}}
    {{- end }}
    volumeMounts:
      - name: tmp
        mountPath: /tmp
      {{- include "mimo.items" .Values.modelServer.extraVolumeMounts | indent 6 }}
volumes:
  - name: tmp
    emptyDir: {}
  {{- include "mimo.items" .Values.modelServer.extraVolumes | indent 2 }}
{{- end }}

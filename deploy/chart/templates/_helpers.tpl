{{/* What the names of objects begin with. */}}
{{- define "rds-csi.name" -}}
{{ .Values.fullnameOverride | default .Release.Name | trunc 40 | trimSuffix "-" }}
{{- end }}

{{/* Labels by which pods are selected. Takes {root, component}. */}}
{{- define "rds-csi.selector" -}}
app.kubernetes.io/name: rds-csi
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* Labels of every object. Takes {root, component}. */}}
{{- define "rds-csi.labels" -}}
{{ include "rds-csi.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{- end }}

{{/* The driver's image. */}}
{{- define "rds-csi.image" -}}
{{- with .Values.image -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end }}
{{- end }}

{{/* A sidecar's image. Takes {root, image}. */}}
{{- define "rds-csi.sidecarImage" -}}
{{- with .root.Values.sidecars.registry }}{{ trimSuffix "/" . }}/{{ end }}{{ .image.repository }}:{{ .image.tag }}
{{- end }}

{{/* Settings by flag as environment variables, so that whatever is run in the pod (diagnose, prestop) has the same. Empty ones are left out. */}}
{{- define "rds-csi.env" -}}
{{- range $flag, $value := . }}
{{- if ne (toString $value) "" }}
- name: RDS_CSI_{{ $flag | upper | replace "-" "_" }}
  value: {{ kindIs "float64" $value | ternary (int64 $value) $value | toString | quote }}
{{- end }}
{{- end }}
{{- end }}

{{/* The same from the ConfigMap. Takes {root, keys: variable → key}. */}}
{{- define "rds-csi.envFromConfig" -}}
{{- range $variable, $key := .keys }}
- name: {{ $variable }}
  valueFrom:
    configMapKeyRef:
      name: {{ include "rds-csi.name" $.root }}-config
      key: {{ $key }}
{{- end }}
{{- end }}

{{/* Settings that controller and node have in common. Takes {root, component values}. */}}
{{- define "rds-csi.commonSettings" -}}
driver-name: {{ .root.Values.driverName }}
metrics-address: {{ printf "%s:%v" .root.Values.monitoring.host .root.Values.monitoring.port | quote }}
log-format: {{ .root.Values.logFormat }}
log-level: {{ kindIs "string" .values.logLevel | ternary .values.logLevel "INFO" }}
expansion: {{ .root.Values.rds.expansion }}
{{- end }}

{{/* Where RouterOS is, for the controller and for the nodes. */}}
{{- define "rds-csi.simulatorHost" -}}
{{ include "rds-csi.name" . }}-simulator.{{ .Release.Namespace }}.svc
{{- end }}
{{- define "rds-csi.managementIP" -}}
{{- if .Values.simulator.enabled }}{{ include "rds-csi.simulatorHost" . }}{{ else }}{{ .Values.rds.managementIP }}{{ end }}
{{- end }}

{{/* Probes of the driver's own HTTP server. */}}
{{- define "rds-csi.readiness" -}}
httpGet: {path: /readyz, port: metrics}
periodSeconds: 5
timeoutSeconds: 5
{{- end }}
{{- define "rds-csi.liveness" -}}
httpGet: {path: /healthz, port: metrics}
initialDelaySeconds: 10
periodSeconds: 10
timeoutSeconds: 5
failureThreshold: 6
{{- end }}

{{/* What a container may that needs nothing. */}}
{{- define "rds-csi.unprivileged" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* Values of the Go driver's chart that are taken and have no effect, one a line. */}}
{{- define "rds-csi.withoutEffect" -}}
{{- $v := .Values }}
{{- range $path, $why := dict
  "nameOverride" "fullnameOverride names the objects"
  "controller.attachmentGracePeriod" "a volume is free when its attachment is gone, not when a time has passed"
  "controller.attachmentReconcileInterval" "attachments are watched, not polled"
  "controller.orphanReconciler.enabled" "see controller.orphanReconciler.mode"
  "controller.orphanReconciler.dryRun" "controller.orphanReconciler.mode=delete is what deletes"
  "controller.vmiSerialization.cacheTTL" "nothing is cached; see controller.vmiSerialization.deadline"
  "sidecars.snapshotter" "there are no snapshots"
  "sidecars.livenessProbe" "the kubelet asks the controller itself"
  "monitoring.serviceMonitor.forceEnable" "nothing is detected: monitoring.serviceMonitor.enabled is enough"
  "monitoring.rdsMonitoring" "RouterOS is not asked during a scrape; use its own exporter"
  "snapshotClass" "there are no snapshots"
}}
{{- $at := $v }}
{{- range splitList "." $path }}
{{- if kindIs "map" $at }}{{ $at = get $at . }}{{ else }}{{ $at = "" }}{{ end }}
{{- end }}
{{- if ne (toString $at) "" }}
  {{ $path }}: {{ $why }}
{{- end }}
{{- end }}
{{- range $part := list "controller" "node" }}
{{- if not (kindIs "string" (get (get $v $part) "logLevel")) }}
  {{ $part }}.logLevel: write DEBUG, INFO, WARN or ERROR
{{- end }}
{{- end }}
{{- end }}

{{/* Values that the schema cannot refuse with a remedy. */}}
{{- define "rds-csi.check" -}}
{{- range $part := list "controller" "node" }}
{{- if hasKey (get $.Values $part) "image" }}
{{- fail (printf "%s.image is a value of the Go driver's chart and names its image: remove it, and name this driver's in image.repository and image.tag" $part) }}
{{- end }}
{{- end }}
{{- if dig "enabled" false (.Values.scheduledSnapshots | default dict) }}
{{- fail "scheduledSnapshots.enabled: this driver makes no snapshots, so nothing would be kept. Remove it, and see docs/guides/from-the-go-driver.md" }}
{{- end }}
{{- if and .Values.monitoring.serviceMonitor.enabled (not .Values.monitoring.enabled) }}
{{- fail "monitoring.serviceMonitor.enabled finds nothing without the Services of monitoring.enabled: set both" }}
{{- end }}
{{- end }}

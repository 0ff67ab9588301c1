module mimo.local/definitions

go 1.24

require (
	github.com/cilium/cilium v1.18.3
	github.com/kedacore/keda/v2 v2.21.0
	github.com/prometheus-operator/prometheus-operator v0.85.0
	github.com/ray-project/kuberay/ray-operator v1.4.2
	sigs.k8s.io/gateway-api v1.4.0
	sigs.k8s.io/lws v0.7.0
)

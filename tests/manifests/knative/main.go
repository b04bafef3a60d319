// Knative Serving's own webhook, without a cluster: its defaults and its validation of a Service.
//
// Reads {"services": [...], "config": {"features": {...}, "defaults": {...}, "autoscaler": {...}}}
// and writes a list with one text for each service: what the webhook says, empty if it accepts.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	"knative.dev/pkg/apis"
	"knative.dev/serving/pkg/apis/config"
	servingv1 "knative.dev/serving/pkg/apis/serving/v1"
	"knative.dev/serving/pkg/autoscaler/config/autoscalerconfig"

	autoscaler "knative.dev/serving/pkg/autoscaler/config"
)

type input struct {
	Services []json.RawMessage            `json:"services"`
	Config   map[string]map[string]string `json:"config"`
}

func fail(what string, err error) {
	fmt.Fprintf(os.Stderr, "%s: %v\n", what, err)
	os.Exit(1)
}

// clusterConfig is the cluster's ConfigMaps as the webhook reads them; a missing one is the default.
func clusterConfig(data map[string]map[string]string) *config.Config {
	features, err := config.NewFeaturesConfigFromMap(data["features"])
	if err != nil {
		fail("config-features", err)
	}
	defaults, err := config.NewDefaultsConfigFromMap(data["defaults"])
	if err != nil {
		fail("config-defaults", err)
	}
	var scaling *autoscalerconfig.Config
	if scaling, err = autoscaler.NewConfigFromMap(data["autoscaler"]); err != nil {
		fail("config-autoscaler", err)
	}
	return &config.Config{Features: features, Defaults: defaults, Autoscaler: scaling}
}

// verdict is the webhook's message, or nothing. Unknown fields are the API server's to refuse.
func verdict(ctx context.Context, raw json.RawMessage) string {
	service := &servingv1.Service{}
	if err := json.Unmarshal(raw, service); err != nil {
		return err.Error()
	}
	service.SetDefaults(ctx)
	if err := service.Validate(ctx).Filter(apis.ErrorLevel); err != nil {
		return err.Error()
	}
	return ""
}

func main() {
	var given input
	if err := json.NewDecoder(os.Stdin).Decode(&given); err != nil {
		fail("stdin", err)
	}
	ctx := apis.WithinCreate(config.ToContext(context.Background(), clusterConfig(given.Config)))
	verdicts := []string{}
	for _, raw := range given.Services {
		verdicts = append(verdicts, verdict(ctx, raw))
	}
	if err := json.NewEncoder(os.Stdout).Encode(verdicts); err != nil {
		fail("stdout", err)
	}
}

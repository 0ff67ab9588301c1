// Renders a chart again and again in one process, without Helm's own start:
//
//	render -chart helm -values helm/values-dev.yaml -n 200
//
// It prints one JSON object: the median processor time of each part in milliseconds, and how many objects were rendered.
package main

import (
	"encoding/json"
	"flag"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/cli/values"
	"helm.sh/helm/v4/pkg/engine"
)

type paths []string

func (p *paths) String() string         { return strings.Join(*p, ",") }
func (p *paths) Set(value string) error { *p = append(*p, value); return nil }

func main() {
	chart := flag.String("chart", "", "folder of the chart")
	times := flag.Int("n", 200, "how often")
	var files, sets paths
	flag.Var(&files, "values", "a file of values; may be given again")
	flag.Var(&sets, "set", "values as name=value; may be given again")
	flag.Parse()
	slog.SetDefault(slog.New(slog.NewTextHandler(io.Discard, nil)))

	var load, check, render []time.Duration
	objects := 0
	for range *times {
		begun := spent()
		loaded, err := loader.LoadDir(*chart)
		must(err)
		given, err := (&values.Options{ValueFiles: files, Values: sets}).MergeValues(nil)
		must(err)
		load = append(load, spent()-begun)

		begun = spent()
		options := common.ReleaseOptions{Name: "mimo", Namespace: "coder", Revision: 1, IsInstall: true}
		known, err := util.ToRenderValues(loaded, given, options, common.DefaultCapabilities)
		must(err)
		check = append(check, spent()-begun)

		begun = spent()
		made, err := engine.Render(loaded, known)
		must(err)
		render = append(render, spent()-begun)
		objects = 0
		for _, text := range made {
			objects += strings.Count("\n"+text, "\nkind: ")
		}
	}
	must(json.NewEncoder(os.Stdout).Encode(map[string]float64{
		"load_ms":   median(load),
		"check_ms":  median(check),
		"render_ms": median(render),
		"objects":   float64(objects),
	}))
}

// spent is the processor time of this process until now, the collector of garbage included.
func spent() time.Duration {
	var usage syscall.Rusage
	must(syscall.Getrusage(syscall.RUSAGE_SELF, &usage))
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

func median(parts []time.Duration) float64 {
	slices.Sort(parts)
	return float64(parts[len(parts)/2].Microseconds()) / 1000
}

func must(err error) {
	if err != nil {
		os.Stderr.WriteString(err.Error() + "\n")
		os.Exit(1)
	}
}

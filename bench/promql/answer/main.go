// Answers queries from standard input with Prometheus' own engine: one JSON object a line with
// series in the notation of its test scripts and queries over them; one line of JSON per query.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/promql/promqltest"
	"github.com/prometheus/prometheus/storage"
)

// script stands in for a test where the loader of series wants one.
type script struct{ testing.TB }

func (script) Helper()                        {}
func (script) Name() string                   { return "answers" }
func (script) Cleanup(func())                 {}
func (script) Log(...any)                     {}
func (script) Logf(string, ...any)            {}
func (script) Context() context.Context       { return context.Background() }
func (script) Errorf(format string, a ...any) { panic(fmt.Sprintf(format, a...)) }
func (script) Fatalf(format string, a ...any) { panic(fmt.Sprintf(format, a...)) }
func (script) Fatal(a ...any)                 { panic(fmt.Sprint(a...)) }
func (script) FailNow()                       { panic("failed") }

func (script) TempDir() string {
	dir, err := os.MkdirTemp("", "answers")
	if err != nil {
		panic(err)
	}
	return dir
}

type query struct {
	Expr             string
	Time             *int64
	Start, End, Step int64
}

type job struct {
	IntervalMs int64 `json:"interval_ms"`
	// Whether metric names are removed at the end of a query instead of in each function.
	Delayed bool `json:"delayed_name_removal"`
	Series  []string
	Queries []query
}

type answer struct {
	ResultType string   `json:"resultType,omitempty"`
	Result     any      `json:"result,omitempty"`
	Warnings   []string `json:"warnings"`
	Infos      []string `json:"infos"`
	Error      string   `json:"error,omitempty"`
}

func main() {
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 1<<28)
	out := json.NewEncoder(os.Stdout)
	for in.Scan() {
		var j job
		if err := json.Unmarshal(in.Bytes(), &j); err != nil {
			panic(err)
		}
		engine := engine(j.Delayed)
		load := fmt.Sprintf("load %dms\n  %s\n", j.IntervalMs, strings.Join(j.Series, "\n  "))
		store := promqltest.LoadedStorage(script{}, load)
		for _, q := range j.Queries {
			if err := out.Encode(run(engine, store, q)); err != nil {
				panic(err)
			}
		}
		if err := store.Close(); err != nil {
			panic(err)
		}
	}
	if err := in.Err(); err != nil {
		panic(err)
	}
}

func engine(delayed bool) *promql.Engine {
	return promql.NewEngine(promql.EngineOpts{
		MaxSamples: 5_000_000, Timeout: time.Minute, EnableAtModifier: true, EnableDelayedNameRemoval: delayed, EnableNegativeOffset: true,
		Parser: parser.NewParser(parser.Options{
			EnableExperimentalFunctions: true, ExperimentalDurationExpr: true, EnableExtendedRangeSelectors: true,
			EnableBinopFillModifiers: true,
		}),
		NoStepSubqueryIntervalFn: func(int64) int64 { return 60_000 },
	})
}

func run(engine *promql.Engine, store storage.Queryable, q query) answer {
	ctx := context.Background()
	var asked promql.Query
	var err error
	if q.Time != nil {
		asked, err = engine.NewInstantQuery(ctx, store, nil, q.Expr, time.UnixMilli(*q.Time))
	} else {
		step := time.Duration(q.Step) * time.Millisecond
		asked, err = engine.NewRangeQuery(ctx, store, nil, q.Expr, time.UnixMilli(q.Start), time.UnixMilli(q.End), step)
	}
	if err != nil {
		return answer{Error: err.Error()}
	}
	defer asked.Close()
	result := asked.Exec(ctx)
	if result.Err != nil {
		return answer{Error: result.Err.Error()}
	}
	// A limit of zero shows all of them.
	warnings, infos := result.Warnings.AsStrings(q.Expr, 0, 0)
	value := any(result.Value)
	switch v := result.Value.(type) {
	case promql.Scalar:
		value = []any{v.T, strconv.FormatFloat(v.V, 'f', -1, 64)}
	case promql.String:
		value = []any{v.T, v.V}
	}
	return answer{ResultType: string(result.Value.Type()), Result: value, Warnings: warnings, Infos: infos}
}

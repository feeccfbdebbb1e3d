package api

import (
	"bytes"
	"context"
	"fmt"
	"math/big"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"

	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/network"
	"github.com/farthing402/farthing/webhook/courier"
)

// metrics are what the handler counts, in the registry of its configuration beside what others count there.
type metrics struct {
	registry  *prometheus.Registry
	requests  *prometheus.CounterVec
	seconds   *prometheus.HistogramVec
	items     *prometheus.CounterVec
	admission prometheus.Histogram
}

func newMetrics(c Config, l *limits) *metrics {
	m := &metrics{
		registry: c.Metrics,
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "farthing_requests_total", Help: "Requests by path and status."}, []string{"path", "status"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "farthing_request_seconds", Help: "Time to answer a request.", Buckets: []float64{0.001, 0.004, 0.01, 0.02, 0.05, 0.1, 0.5, 2, 10},
		}, []string{"path"}),
		items: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "farthing_guarantees_total", Help: "Guarantees asked for, by result: certified, replayed, or the code of the refusal.",
		}, []string{"result"}),
		admission: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "farthing_admission_seconds", Help: "Time from a guarantee's arrival to its certificate.",
			Buckets: []float64{0.0005, 0.001, 0.002, 0.004, 0.007, 0.01, 0.02, 0.05, 0.2, 1},
		}),
	}
	if m.registry == nil {
		m.registry = prometheus.NewRegistry()
	}
	gauge := func(name, help string, f func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, f)
	}
	m.registry.MustRegister(m.requests, m.seconds, m.items, m.admission, &cycleFigures{house: c.House, tokens: c.Tokens, now: c.Now},
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "farthing_defaults_total", Help: "Marks of default that this node has applied."},
			func() float64 { return float64(c.House.Defaults()) }),
		gauge("farthing_items_open", "Guarantees and notes that are worked on.", func() float64 { return float64(l.items.used.Load()) }),
		gauge("farthing_body_bytes_open", "Bytes of request bodies that are held.", func() float64 { return float64(l.bytes.used.Load()) }))
	if c.Webhooks != nil {
		count := func(name, help string, labels prometheus.Labels, f func(courier.Counts) uint64) {
			m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help, ConstLabels: labels},
				func() float64 { return float64(f(c.Webhooks.Counts())) }))
		}
		const attempts = "farthing_webhook_attempts_total"
		count(attempts, "Attempts to deliver a webhook, by result.", prometheus.Labels{"result": "delivered"}, func(n courier.Counts) uint64 { return n.Delivered })
		count(attempts, "Attempts to deliver a webhook, by result.", prometheus.Labels{"result": "failed"}, func(n courier.Counts) uint64 { return n.Failed })
		count("farthing_webhooks_given_up_total", "Webhooks that were not delivered in time.", nil, func(n courier.Counts) uint64 { return n.GivenUp })
	}
	return m
}

func (m *metrics) answered(path string, status int, took time.Duration) {
	m.requests.WithLabelValues(path, strconv.Itoa(status)).Inc()
	m.seconds.WithLabelValues(path).Observe(took.Seconds())
}

// cycleFigures are read from the book when they are asked for, and not more often than every few seconds.
type cycleFigures struct {
	house  *clearing.House
	tokens []network.Token
	now    func() time.Time

	mu   sync.Mutex
	at   time.Time           // guarded by mu
	last []prometheus.Metric // guarded by mu
}

const (
	figuresFor  = 5 * time.Second
	figuresTime = 2 * time.Second
)

var (
	cyclesDesc = prometheus.NewDesc("farthing_cycles", "Cycles that are not closed, by state.", []string{"asset", "state"}, nil)
	netDesc    = prometheus.NewDesc("farthing_cycles_net_units", "Net debits of the cycles that are not closed, which are their net credits, in smallest units.", []string{"asset", "state"}, nil)
	troubled   = prometheus.NewDesc("farthing_cycles_in_trouble", "Cycles that do not move on by themselves.", []string{"asset"}, nil)
)

// Describe implements prometheus.Collector.
func (f *cycleFigures) Describe(to chan<- *prometheus.Desc) {
	to <- cyclesDesc
	to <- netDesc
	to <- troubled
}

// Collect implements prometheus.Collector.
func (f *cycleFigures) Collect(to chan<- prometheus.Metric) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now := f.now(); f.at.IsZero() || now.Sub(f.at) > figuresFor || now.Before(f.at) {
		ctx, cancel := context.WithTimeout(context.Background(), figuresTime)
		defer cancel()
		list, err := f.read(ctx)
		if err != nil {
			to <- prometheus.NewInvalidMetric(cyclesDesc, fmt.Errorf("cycles: %w", err))
			return
		}
		f.at, f.last = now, list
	}
	for _, m := range f.last {
		to <- m
	}
}

func (f *cycleFigures) read(ctx context.Context) (list []prometheus.Metric, err error) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		list = append(list, prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...))
	}
	for _, t := range f.tokens {
		cycles, err := f.house.OpenCycles(ctx, t.Address)
		if err != nil {
			return nil, err
		}
		count, net, stuck := map[clearing.CycleStatus]int{}, map[clearing.CycleStatus]money.Amount{}, 0
		for _, c := range cycles {
			count[c.Status]++
			net[c.Status], _ = net[c.Status].Add(c.Total) // far below 2^256
			if c.Trouble != "" {
				stuck++
			}
		}
		for _, s := range []clearing.CycleStatus{clearing.Open, clearing.Frozen, clearing.Netted, clearing.Committed, clearing.Final, clearing.Failed} {
			gauge(cyclesDesc, float64(count[s]), t.Symbol, string(s))
			gauge(netDesc, float(net[s]), t.Symbol, string(s))
		}
		gauge(troubled, float64(stuck), t.Symbol)
	}
	return list, nil
}

// float is an amount as a graph shows it.
func float(a money.Amount) float64 {
	w := a.Word()
	v, _ := new(big.Float).SetInt(new(big.Int).SetBytes(w[:])).Float64()
	return v
}

// showMetrics writes what was counted as Prometheus's text.
func (h *handler) showMetrics(*http.Request) (any, error) {
	families, err := h.metrics.registry.Gather()
	if err != nil {
		return nil, fmt.Errorf("gather metrics: %w", err)
	}
	var b bytes.Buffer
	format := expfmt.NewFormat(expfmt.TypeTextPlain)
	enc := expfmt.NewEncoder(&b, format)
	for _, f := range families {
		if err := enc.Encode(f); err != nil {
			return nil, fmt.Errorf("write metrics: %w", err)
		}
	}
	return page{status: http.StatusOK, kind: string(format), body: bytes.TrimSuffix(b.Bytes(), []byte("\n"))}, nil
}

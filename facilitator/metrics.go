package facilitator

import (
	"math/big"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/farthing402/farthing/facilitator/desk"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/x402"
)

// metrics are a facilitator's own; each has a registry of its own, so that a process may have several.
type metrics struct {
	registry      *prometheus.Registry
	networks      map[string]string // name by CAIP-2: labels come from a closed set
	requests      *prometheus.CounterVec
	seconds       *prometheus.HistogramVec
	verifications *prometheus.CounterVec
	answers       *prometheus.CounterVec
	settlements   *prometheus.CounterVec
	gas           *prometheus.CounterVec
	wei           *prometheus.CounterVec
	wait          *prometheus.HistogramVec
}

func newMetrics(f *Facilitator) *metrics {
	m := &metrics{registry: prometheus.NewRegistry(), networks: make(map[string]string)}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
		m.registry.MustRegister(v)
		return v
	}
	histogram := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		v := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, labels)
		m.registry.MustRegister(v)
		return v
	}
	m.requests = counter("farthing_facilitator_requests_total", "Requests by path and status.", "path", "status")
	m.seconds = histogram("farthing_facilitator_request_seconds", "Time to answer a request.", []float64{0.0005, 0.002, 0.01, 0.05, 0.2, 1, 5, 20, 80}, "path")
	m.verifications = counter("farthing_verifications_total", "Payments verified, by result: valid, or the reason.", "network", "scheme", "result")
	m.answers = counter("farthing_settle_answers_total", "Answers to /settle, by result: settled, or the reason.", "network", "scheme", "result")
	m.settlements = counter("farthing_settlements_total", "Settlements that ended, by result: settled, foreign (another's transaction), failed, reopened.", "network", "scheme", "result")
	m.gas = counter("farthing_settlement_gas_total", "Gas used by settlements that ended.", "network")
	m.wei = counter("farthing_settlement_wei_total", "What settlements that ended cost, data fees included.", "network")
	m.wait = histogram("farthing_settlement_seconds", "Time from being asked for to being settled.", []float64{0.5, 1, 2, 5, 10, 20, 40, 80, 300, 3600}, "network")
	for _, n := range f.Networks {
		m.networks[n.c.Chain.CAIP2()] = n.c.Chain.Name
		labels := prometheus.Labels{"network": n.c.Chain.Name}
		m.registry.MustRegister(
			prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "farthing_settlements_open", Help: "Settlements queued or sent.", ConstLabels: labels},
				func() float64 { return float64(n.desk.Open()) }),
			prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "farthing_lanes_spent_today_wei", Help: "What the lanes spent since midnight UTC.", ConstLabels: labels},
				func() float64 { return float(n.desk.Spent()) }),
			prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "farthing_chain_up", Help: "1 if the last look at the chain succeeded.", ConstLabels: labels},
				func() float64 {
					if n.well() != nil {
						return 0
					}
					return 1
				}))
	}
	return m
}

func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

// labels keeps what others write out of the labels.
func (m *metrics) labels(r x402.Requirements) (network, scheme string) {
	network, scheme = "other", "other"
	if name, ok := m.networks[r.Network]; ok {
		network = name
	}
	switch r.Scheme {
	case "exact", "upto", "exact-legacy", guarantee.Scheme:
		scheme = r.Scheme
	}
	return network, scheme
}

func (m *metrics) verified(r x402.Requirements, reason string) {
	network, scheme := m.labels(r)
	m.verifications.WithLabelValues(network, scheme, orElse(reason, "valid")).Inc()
}

func (m *metrics) settleAnswered(r x402.Requirements, reason string) {
	network, scheme := m.labels(r)
	m.answers.WithLabelValues(network, scheme, orElse(reason, "settled")).Inc()
}

func (m *metrics) answered(path string, status int, took time.Duration) {
	m.requests.WithLabelValues(path, strconv.Itoa(status)).Inc()
	m.seconds.WithLabelValues(path).Observe(took.Seconds())
}

// ended counts a network's settlements.
func (m *metrics) ended(n *Network) func(desk.Settlement) {
	name := n.c.Chain.Name
	return func(s desk.Settlement) {
		result := string(s.State)
		switch {
		case !s.State.Final():
			result = "reopened"
		case s.Foreign:
			result = "foreign"
		}
		m.settlements.WithLabelValues(name, s.Scheme, result).Inc()
		if s.State.Final() {
			m.gas.WithLabelValues(name).Add(float64(s.Gas))
			m.wei.WithLabelValues(name).Add(float(s.Cost))
		}
		if s.State == desk.Settled {
			m.wait.WithLabelValues(name).Observe(s.DoneAt.Sub(s.AskedAt).Seconds())
		}
	}
}

// float is an amount as a graph shows it.
func float(a money.Amount) float64 {
	w := a.Word()
	v, _ := new(big.Float).SetInt(new(big.Int).SetBytes(w[:])).Float64()
	return v
}

func orElse(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

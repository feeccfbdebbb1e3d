package main

import "github.com/prometheus/client_golang/prometheus"

// figures is what /metrics shows of the node itself and of its facilitator, beside what the handler counts.
func (h *house) figures() *prometheus.Registry {
	yes := func(b bool) float64 {
		if b {
			return 1
		}
		return 0
	}
	r := h.face.Registry()
	for _, g := range []struct {
		name, help string
		value      func() float64
	}{
		{"farthing_node_leads", "1 on the node that follows the chain, moves cycles and sends transactions.", func() float64 { return yes(h.leads.Load()) }},
		{"farthing_node_trouble", "1 while this node's work on the chain fails, or it cannot compare the book with the chain.", func() float64 { return yes(h.ails() != nil) }},
		{"farthing_node_certifies", "1 while this node admits guarantees.", func() float64 { return yes(h.certifies() == nil) }},
		{"farthing_book_behind_seconds", "Time between the chain's newest block and the newest one that the book has.", func() float64 { return float64(h.behind.Load()) }},
	} {
		r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: g.name, Help: g.help}, g.value))
	}
	return r
}

package paywall_test

import (
	"bytes"
	"compress/gzip"
	"net/http"
	"testing"
	"time"

	"github.com/farthing402/farthing/paywall"
)

func TestMeters(t *testing.T) {
	t.Parallel()
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	_, _ = z.Write([]byte(`{"usage":{"total_tokens":12}}`))
	_ = z.Close()
	header := func(pairs ...string) http.Header {
		h := http.Header{}
		for i := 0; i < len(pairs); i += 2 {
			h.Add(pairs[i], pairs[i+1])
		}
		return h
	}
	for _, c := range []struct {
		meter string
		in    paywall.Exchange
		want  uint64
		err   bool
	}{
		{"calls", paywall.Exchange{BytesIn: 7, BytesOut: 9}, 1, false},
		{"bytes in", paywall.Exchange{BytesIn: 7, BytesOut: 9}, 7, false},
		{"bytes out", paywall.Exchange{BytesIn: 7, BytesOut: 9}, 9, false},
		{"seconds", paywall.Exchange{Elapsed: 1001 * time.Millisecond}, 2, false},
		{"seconds", paywall.Exchange{Elapsed: -time.Second}, 0, false},
		{"header X-N", paywall.Exchange{Header: header("X-N", " 12 ")}, 12, false},
		{"header X-N", paywall.Exchange{Header: header("X-N", "12", "X-N", "13")}, 0, true},
		{"header X-N", paywall.Exchange{Header: header("X-N", "1.5")}, 0, true},
		{"header X-N", paywall.Exchange{Header: header()}, 0, true},
		{"json usage.total_tokens", paywall.Exchange{Whole: true, Body: []byte(`{"usage":{"total_tokens":12}}`)}, 12, false},
		{"json usage.total_tokens", paywall.Exchange{Whole: true, Header: header("Content-Encoding", "gzip"), Body: packed.Bytes()}, 12, false},
		{"json usage.total_tokens", paywall.Exchange{Whole: true, Header: header("Content-Encoding", "br"), Body: packed.Bytes()}, 0, true},
		{"json usage.total_tokens", paywall.Exchange{Whole: false, Body: []byte(`{"usage":{"total_tokens":12}}`)}, 0, true},
		{"json usage.total_tokens", paywall.Exchange{Whole: true, Body: []byte(`{"usage":{"total_tokens":"12"}}`)}, 0, true},
		{"json usage.total_tokens", paywall.Exchange{Whole: true, Body: []byte(`{"usage":{"total_tokens":-1}}`)}, 0, true},
		{"json usage.total_tokens", paywall.Exchange{Whole: true, Body: []byte(`{"usage":{"total_tokens":1e3}}`)}, 0, true},
		{"json usage.total_tokens", paywall.Exchange{Whole: true, Body: []byte(`{"usage":null}`)}, 0, true},
		{"json usage.total_tokens", paywall.Exchange{Whole: true, Body: []byte(`nonsense`)}, 0, true},
		{"json items.1.n", paywall.Exchange{Whole: true, Body: []byte(`{"items":[{"n":1},{"n":18446744073709551615}]}`)}, 1<<64 - 1, false},
		{"json items.2.n", paywall.Exchange{Whole: true, Body: []byte(`{"items":[{"n":1},{"n":2}]}`)}, 0, true},
		{"json usage.n", paywall.Exchange{Whole: true, Header: header("Content-Type", "text/event-stream"),
			Body: []byte("data: {\"usage\":{\"n\":1}}\n\ndata: {\"usage\":{\"n\":5}}\n\ndata: [DONE]\n\n")}, 5, false},
		{"json usage.n", paywall.Exchange{Whole: true, Header: header("Content-Type", "text/event-stream"), Body: []byte("data: x\n\n")}, 0, true},
	} {
		m, err := paywall.ParseMeter(c.meter)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := m.Measure(c.in); got != c.want || (err != nil) != c.err {
			t.Errorf("%s of %s: %d, %v", c.meter, c.in.Body, got, err)
		}
	}
	for _, bad := range []string{"", "bytes", "bytes up", "header", "header A B", "json", "seconds of fame", "hook"} {
		if _, err := paywall.ParseMeter(bad); err == nil {
			t.Errorf("%q is taken for a meter", bad)
		}
	}
}

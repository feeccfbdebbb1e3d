package main

import (
	"bytes"
	"context"
	"io"
	"net/http"

	"github.com/farthing402/farthing/api/client"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/facilitator"
)

// openFace makes the facilitator beside the clearing house: for its guarantees, and with lanes for transfers.
func (h *house) openFace(ctx context.Context, operator evm.Address) error {
	var specs []deskSpec
	if len(h.Desk.Lanes) > 0 {
		for _, lane := range h.Desk.Lanes {
			if lane.Address() == operator {
				return misuse("lane %s is the operator, whose nonces are the clearing house's", operator).hint("give the lanes keys of their own")
			}
		}
		h.Desk.Client = h.Client
		specs = []deskSpec{h.Desk}
	}
	own, err := client.New("http://clearing-house", client.WithHTTPClient(&http.Client{Transport: inProcess{h.inside()}}))
	if err != nil {
		return err
	}
	h.face, err = openFacilitator(ctx, h.DeskFlags, h.Store, specs, []facilitator.House{own}, h.Now, h.Log)
	return err
}

// inProcess carries requests to a handler of this process.
type inProcess struct{ http.Handler }

// RoundTrip implements [http.RoundTripper].
func (t inProcess) RoundTrip(r *http.Request) (*http.Response, error) {
	w := written{header: make(http.Header), status: http.StatusOK}
	if r.Body == nil {
		r = r.Clone(r.Context())
		r.Body = http.NoBody
	}
	t.ServeHTTP(&w, r)
	return &http.Response{
		Status: http.StatusText(w.status), StatusCode: w.status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: w.header, Body: io.NopCloser(&w.body), ContentLength: int64(w.body.Len()), Request: r,
	}, nil
}

// written is an answer in memory.
type written struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (w *written) Header() http.Header         { return w.header }
func (w *written) WriteHeader(status int)      { w.status = status }
func (w *written) Write(b []byte) (int, error) { return w.body.Write(b) }

// handler serves the facilitator's routes beside those of the clearing house, which shows the facilitator's figures among its
// own, to whoever may see them.
func (h *house) handler(core http.Handler) http.Handler {
	mux := http.NewServeMux()
	for _, route := range facilitator.Routes {
		if route != "/metrics" {
			mux.Handle(route, h.face.Handler())
		}
	}
	mux.Handle("/", core)
	return mux
}

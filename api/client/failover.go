package client

import (
	"net/http"
	"net/url"
	"sync/atomic"
)

// failover sends each request to the node of a clearing house that answered last, and when that one does not, to the
// others in turn. Every call may be sent twice: asking twice is asking once.
type failover struct {
	inner http.RoundTripper
	nodes []*url.URL
	good  atomic.Int64 // of nodes, the one that answered last
}

// RoundTrip implements [http.RoundTripper].
func (f *failover) RoundTrip(r *http.Request) (resp *http.Response, err error) {
	first := f.good.Load()
	for i := range int64(len(f.nodes)) {
		node := (first + i) % int64(len(f.nodes))
		try := r.Clone(r.Context())
		try.URL.Scheme, try.URL.Host, try.Host = f.nodes[node].Scheme, f.nodes[node].Host, f.nodes[node].Host
		if i > 0 && r.GetBody != nil {
			if try.Body, err = r.GetBody(); err != nil {
				return nil, err
			}
		}
		last := i == int64(len(f.nodes))-1
		resp, err = f.inner.RoundTrip(try)
		switch {
		case err != nil && r.Context().Err() != nil:
			f.good.CompareAndSwap(first, (first+1)%int64(len(f.nodes))) // it was silent; the next call begins elsewhere
			return nil, err
		case err == nil && (last || resp.StatusCode != http.StatusBadGateway && resp.StatusCode != http.StatusServiceUnavailable && resp.StatusCode != http.StatusGatewayTimeout):
			f.good.Store(node)
			return resp, nil
		case err == nil:
			resp.Body.Close()
		}
	}
	return nil, err
}

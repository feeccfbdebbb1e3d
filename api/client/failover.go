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

// RoundTrip implements [http.RoundTripper]. If no node is well, the answer is that of one that said so, if any did.
func (f *failover) RoundTrip(r *http.Request) (ill *http.Response, err error) {
	first, n := f.good.Load(), int64(len(f.nodes))
	for i := range n {
		node := (first + i) % n
		try := r.Clone(r.Context())
		try.URL.Scheme, try.URL.Host, try.Host = f.nodes[node].Scheme, f.nodes[node].Host, f.nodes[node].Host
		if i > 0 && r.GetBody != nil {
			if try.Body, err = r.GetBody(); err != nil {
				break
			}
		}
		var resp *http.Response
		resp, err = f.inner.RoundTrip(try)
		switch {
		case err != nil && r.Context().Err() != nil:
			f.good.CompareAndSwap(first, (first+1)%n) // it was silent; the next call begins elsewhere
		case err != nil:
		case resp.StatusCode == http.StatusBadGateway, resp.StatusCode == http.StatusServiceUnavailable, resp.StatusCode == http.StatusGatewayTimeout:
			if ill != nil {
				ill.Body.Close()
			}
			ill = resp
		default:
			f.good.Store(node)
			if ill != nil {
				ill.Body.Close()
			}
			return resp, nil
		}
		if r.Context().Err() != nil {
			break
		}
	}
	if ill != nil {
		return ill, nil
	}
	return nil, err
}

package facilitator_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/evm/chain"
	"github.com/farthing402/farthing/evm/devchain"
	"github.com/farthing402/farthing/exact"
	"github.com/farthing402/farthing/facilitator"
	"github.com/farthing402/farthing/facilitator/desk"
	"github.com/farthing402/farthing/network"
	"github.com/farthing402/farthing/store"
)

// BenchmarkRecover is what nothing that checks signatures can pass: recoveries on all cores.
func BenchmarkRecover(b *testing.B) {
	key := devchain.Accounts()[0]
	digest := evm.Keccak256([]byte("payment"))
	sig, err := key.Sign(b.Context(), digest)
	if err != nil {
		b.Fatal(err)
	}
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := evm.Recover(digest, sig); err != nil {
				b.Error(err)
			}
		}
	})
}

// BenchmarkVerifyHTTP verifies payments of exact one a request, over HTTP and without the chain. The client writes bytes
// that were made before, since its cost is not the service's.
func BenchmarkVerifyHTTP(b *testing.B) { verifyHTTP(b, true) }

// BenchmarkVerifySimulated does the same with a node in this process, which simulates every transfer.
func BenchmarkVerifySimulated(b *testing.B) { verifyHTTP(b, false) }

func verifyHTTP(b *testing.B, offline bool) {
	c, err := devchain.Start(b.Context(), devchain.Config{Manual: true})
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	client, err := chain.Dial(b.Context(), c.URL())
	if err != nil {
		b.Fatal(err)
	}
	defer client.Close()
	db, err := store.Open(b.Context(), filepath.Join(b.TempDir(), "facilitator.db"))
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	on, err := network.Lookup("dev")
	if err != nil {
		b.Fatal(err)
	}
	n, err := facilitator.Open(b.Context(), facilitator.NetworkConfig{Chain: on, Node: client, Book: db.Settlements(), Offline: offline,
		Lanes: []desk.Lane{chain.NewSender(client, db.OutboxOn(on.ID), devchain.Accounts()[1], chain.Policy{})}})
	if err != nil {
		b.Fatal(err)
	}
	f, err := facilitator.New(facilitator.Config{Networks: []*facilitator.Network{n}})
	if err != nil {
		b.Fatal(err)
	}
	server := httptest.NewServer(f.Handler())
	defer server.Close()
	address := server.Listener.Addr().String()

	w := &world{T: &testing.T{}, chain: c}
	r := terms(500)
	r.MaxTimeoutSeconds = 3600
	requests := make([][]byte, 256)
	for i := range requests {
		a, err := exact.Pay(b.Context(), devchain.Accounts()[i%10], r, nonce(), time.Now())
		if err != nil {
			b.Fatal(err)
		}
		body := body(w.payment(a, r), r)
		requests[i] = append(fmt.Appendf(nil, "POST /verify HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", len(body)), body...)
	}
	var next atomic.Int64
	b.SetParallelism(16)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			b.Error(err)
			return
		}
		defer conn.Close()
		in := bufio.NewReader(conn)
		for pb.Next() {
			if _, err := conn.Write(requests[int(next.Add(1))%len(requests)]); err != nil {
				b.Error(err)
				return
			}
			resp, err := http.ReadResponse(in, nil)
			if err != nil {
				b.Error(err)
				return
			}
			text, err := io.ReadAll(resp.Body)
			if err != nil || !bytes.HasPrefix(text, []byte(`{"isValid":true`)) {
				b.Errorf("%s, %v", text, err)
				return
			}
		}
	})
	b.StopTimer() // closing takes a while
}

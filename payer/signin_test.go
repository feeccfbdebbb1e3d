package payer

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

	"github.com/farthing402/farthing/x402"
)

// What was bought is asked for by name before it is paid again, once for each 402, and only at the seller itself.
func TestSignIn(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		status int                 // of a request that signs in; 0: as the 402 before
		domain func(string) string // that the seller would have signed for
		signed int                 // sign-ins that arrive at the second request
		paid   int                 // payments after it
	}{
		{"and is let in", 200, nil, 1, 1},
		{"and is asked to pay again", 0, nil, 1, 2},
		{"and is turned away", 403, nil, 1, 2},
		{"and is turned away with a code", 401, nil, 1, 2},
		{"and finds nothing", 404, nil, 1, 1},
		{"for another domain", 200, func(string) string { return "https://bank.example/login" }, 0, 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := &till{T: t, chain: newLedgerChain()}
			signed := 0
			mux := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				here := "http://" + r.Host + r.URL.RequestURI()
				if test.domain != nil {
					here = test.domain(here)
				}
				entry, err := x402.DeclareSignIn(here, "Come back", []string{"solana:x", "eip155:31337"}, [16]byte{1}, noon)
				if err != nil {
					t.Error(err)
				}
				s.extensions = map[string]json.RawMessage{x402.SignInKey: entry}
				in, bad := x402.ReadSignIn(r.Header)
				if bad != nil {
					t.Error(bad)
				}
				if in != nil {
					signed++
					origin := &url.URL{Scheme: "http", Host: r.Host}
					if who, err := in.Check(r.Context(), origin, noon, nil); err != nil || who != buyerKey.Address() {
						t.Errorf("signed in as %s, %v", who, err)
					}
					if r.Header.Get(x402.HeaderSignature) != "" {
						t.Error("signed in and paid")
					}
					if test.status != 0 {
						if test.status == 401 {
							x402.WriteError(w, x402.Errorf("sign_in_used", "used"))
							return
						}
						w.WriteHeader(test.status)
						fmt.Fprint(w, "come in")
						return
					}
				}
				s.ServeHTTP(w, r)
			})
			server := httptest.NewServer(mux)
			defer server.Close()
			p := s.payer(t)
			if _, _, err := get(p, server.URL+"/a"); err != nil || signed != 0 {
				t.Fatalf("first: %v, signed in %d times", err, signed)
			}
			body, r, err := get(p, server.URL+"/a")
			if err != nil || signed != test.signed || len(s.payments) != test.paid {
				t.Fatalf("%q, %v: signed in %d times, paid %d times", body, err, signed, len(s.payments))
			}
			if free := test.paid == 1; free != (body == "come in") || free != (r.ID == "") {
				t.Errorf("%q, %+v", body, r)
			}
			// What was not bought is not signed in for.
			before := signed
			if _, _, err := get(p, server.URL+"/b"); err != nil || signed != before {
				t.Errorf("%v, signed in %d times", err, signed)
			}
		})
	}
}

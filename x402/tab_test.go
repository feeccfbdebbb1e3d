package x402

import (
	"strings"
	"testing"
	"time"
)

// Whatever is asked, a question is read in one way or refused, and ids do not repeat.
func FuzzReadTabRequest(f *testing.F) {
	f.Add(`{"userAddress":"0x70997970C51812dc3A010C7d01b50e0d17dc79C8","guaranteeVersion":1,"paymentRequirements":{"scheme":"4mica-credit","network":"base","maxAmountRequired":"0x5"}}`)
	f.Add(`{"user_address":"0x70997970c51812dc3a010c7d01b50e0d17dc79c8","erc20_token":null,"ttlSeconds":"4294967296","x402Version":"V2"}`)
	f.Add(`{"userAddress":"0x70997970C51812dc3A010C7d01b50e0d17dc79C8","ttlSeconds":1e9}`)
	f.Fuzz(func(t *testing.T, text string) {
		q, refusal := ReadTabRequest(strings.NewReader(text))
		if refusal != nil {
			if refusal.Code != "malformed_request" && refusal.Code != "body_too_large" {
				t.Error(refusal.Code)
			}
			return
		}
		if q.Version < 0 || q.Version > 2 || q.TTL < time.Second {
			t.Errorf("%+v", q)
		}
		a, err := q.Tab(q.Payer, q.Payer, time.Unix(1, 0))
		if err != nil {
			t.Fatal(err)
		}
		b, err := q.Tab(q.Payer, q.Payer, time.Unix(1, 0))
		if err != nil || a.NextReqID == b.NextReqID {
			t.Errorf("%s twice, %v", a.NextReqID, err)
		}
	})
}

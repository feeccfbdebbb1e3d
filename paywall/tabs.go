package paywall

import (
	"crypto/rand"
	"encoding/json"
	"io"
	"net/http"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/x402"
)

// tabBytesMax bounds the body of a question for a request id.
const tabBytesMax = 64 << 10

// tab is the answer to a question for a request id, in both spellings that 4Mica's clients know.
type tab struct {
	TabID          string `json:"tabId"`
	Payer          string `json:"userAddress"`
	Payee          string `json:"recipientAddress"`
	Asset          string `json:"assetAddress"`
	StartTimestamp int64  `json:"startTimestamp"`
	TTLSeconds     int64  `json:"ttlSeconds"`
	NextReqID      string `json:"nextReqId"`
}

// Tabs returns the handler that gives 4Mica's clients a request id before they sign. Mount it for POST at Config.TabPath.
// Ids are random, so nothing has to be remembered; it asks for no payment and promises none.
func (pw *Paywall) Tabs() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var q struct {
			Version      int                `json:"guaranteeVersion"`
			Payer        string             `json:"userAddress"`
			Requirements *x402.Requirements `json:"paymentRequirements"`
		}
		if r.Method != http.MethodPost {
			w.Header().Set("Allow", http.MethodPost)
			x402.WriteError(w, x402.Errorf("method_not_allowed", "%s: post the question", r.Method))
			return
		}
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, tabBytesMax))
		if err == nil {
			err = json.Unmarshal(body, &q)
		}
		_, addressErr := evm.ParseAddress(q.Payer)
		switch {
		case err != nil || addressErr != nil:
			x402.WriteError(w, x402.Errorf("malformed_request", "a request id is asked for with userAddress and paymentRequirements"))
			return
		case q.Version > 1:
			x402.WriteError(w, x402.Errorf("malformed_request", "guarantees of version %d are not taken here", q.Version))
			return
		}
		asset := pw.assets[0].Address
		if q.Requirements != nil {
			if q.Requirements.Scheme != guarantee.Scheme {
				x402.WriteError(w, x402.Errorf("malformed_request", "scheme %q needs no request id", clip(q.Requirements.Scheme)))
				return
			}
			if a, err := evm.ParseAddress(q.Requirements.Asset); err == nil {
				asset = a
			}
		}
		var id [32]byte
		_, _ = rand.Read(id[:]) // never fails
		number, err := money.AmountFromBytes(id[:])
		if err != nil {
			x402.WriteError(w, internal(err))
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		_ = json.NewEncoder(w).Encode(tab{
			TabID: number.Hex(), Payer: q.Payer, Payee: pw.payee.Lower(), Asset: asset.Lower(),
			StartTimestamp: pw.cfg.Now().Unix(), TTLSeconds: int64(pw.cfg.QuoteLifetime.Seconds()), NextReqID: number.Hex(),
		})
	})
}

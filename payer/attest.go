package payer

import (
	"net/url"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/x402"
)

// Attest is what a seller's signature (offer-receipt) adds to its word about a purchase.
type Attest string

// The attests.
const (
	Unsigned Attest = ""         // nothing is signed, or not by who is paid
	Attested Attest = "attested" // the payee has signed these very figures
	Refuted  Attest = "refuted"  // what is signed does not hold, or says something else than the receipt
)

// checkOffer refuses an offer whose signature does not hold. One that nobody signed, or somebody else than who is paid, is
// worth what any offer is.
func checkOffer(t terms, o option) error {
	_, _, _, err := t.SignedOffer(o.Requirements, nil)
	return err
}

// attest compares a signed receipt with the one that it came with, and with what was bought.
func (r row) attest(receipt x402.SettleResponse) Attest {
	signed, signer, found, err := receipt.SignedReceipt(nil)
	switch {
	case err != nil:
		return Refuted
	case !found || signer != r.Payee:
		return Unsigned
	}
	payer, err := evm.ParseAddress(signed.Payer)
	asked, bad := url.Parse(r.URL)
	if err != nil || bad != nil || !r.Payer.IsZero() && payer != r.Payer || !sameResource(signed.ResourceURL, asked) || signed.Purchase != "" && signed.Purchase != r.ID {
		return Refuted
	}
	if signed.Amount != "" {
		amount, err := money.ParseAmount(signed.Amount)
		if said, none := money.ParseAmount(receipt.Amount); err != nil || none == nil && amount != said {
			return Refuted
		}
	}
	return Attested
}

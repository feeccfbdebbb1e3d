package guarantee

import (
	"context"
	"fmt"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/x402"
)

// Pay signs a guarantee that meets a seller's requirement; its JSON is the payload of an x402 payment. The requirement
// must be for this scheme and the deployment's chain; if it asks for validation, the claims depend on that. What is paid, to whom and in
// which asset is for the caller's budget to have judged; what the signature is worth depends on the deployment, which
// the caller knows from its own clearing house and never from a seller.
//
// A request id must not be used again for the same payee and asset: a second payment with it is the first one again, or
// a conflict.
func Pay(ctx context.Context, s evm.Signer, d Deployment, r x402.Requirements, reqID evm.Hash, now time.Time) (Signed, error) {
	want, err := readRequirement(r)
	if err != nil {
		return Signed{}, err
	}
	if want.chainID != d.ChainID {
		return Signed{}, fmt.Errorf("requirement: %w", mismatch("network", chainName(want.chainID), chainName(d.ChainID)))
	}
	if now.Unix() < 0 {
		return Signed{}, fmt.Errorf("sign guarantee: the clock is at %s: %w", now, ErrStale)
	}
	c := Claims{
		Payer: s.Address(), Payee: want.payee, Asset: want.asset, ReqID: reqID, Amount: want.amount, Timestamp: uint64(now.Unix()),
	}
	if want.policy != nil {
		c = c.Bind(*want.policy)
		if err := c.CheckPolicy(d.ChainID); err != nil {
			return Signed{}, fmt.Errorf("requirement: %w", err)
		}
	}
	return Sign(ctx, s, d, c)
}

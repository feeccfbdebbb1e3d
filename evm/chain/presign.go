package chain

import (
	"context"

	"github.com/farthing402/farthing/evm"
)

// Presign signs a call as the account's next transaction, with the fees of the moment, and sends nothing: somebody else is
// to broadcast it. The call needs a gas limit.
func (c *Client) Presign(ctx context.Context, signer evm.Signer, call evm.Call) (raw []byte, err error) {
	market, err := c.GasPrice(ctx)
	if err != nil {
		return nil, err
	}
	offered, err := Policy{}.withDefaults().offer(fees{tip: market.TipWei, fee: market.BaseWei})
	if err != nil {
		return nil, err
	}
	nonce, err := c.Nonce(ctx, signer.Address())
	if err != nil {
		return nil, err
	}
	attempt, err := sign(ctx, signer, c.chainID, call, nonce, call.GasLimit, offered)
	return attempt.Raw, err
}

package chain

import (
	"context"
	"errors"

	"github.com/ethereum/go-ethereum/common/hexutil"

	"github.com/farthing402/farthing/evm"
)

// A contract says that a signature is its own by returning this selector, which is also that of the question (ERC-1271).
var selValidSignature = evm.Selector("isValidSignature(bytes32,bytes)")

// validGas bounds what a stranger's contract may compute when it is asked: wallets that check keys take a tenth of it.
const validGas = 1_000_000

// ValidSignature asks the contract at an account whether a signature over a digest is its own, at the newest block. An account
// without code has none, and a contract that refuses, runs out of gas or answers anything else says no.
func (c *Client) ValidSignature(ctx context.Context, chainID uint64, account evm.Address, digest evm.Hash, signature []byte) (bool, error) {
	if chainID != c.chainID {
		return false, nil
	}
	data := evm.EncodeCall(selValidSignature, evm.WordArg(digest), evm.BytesArg(signature))
	var out hexutil.Bytes
	err := c.ask(ctx, &out, "eth_call", message{To: &account, Gas: validGas, Data: data}, "latest")
	var refused *RevertError
	if errors.As(err, &refused) || errors.Is(err, evm.ErrTooMuchGas) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	word, ok := evm.ABI(out).Word(0)
	return ok && word == [32]byte(append(selValidSignature[:], make([]byte, 28)...)), nil
}

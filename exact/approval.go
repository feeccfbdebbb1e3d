package exact

import (
	"bytes"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/x402"
)

var approveSelector = []byte{0x09, 0x5e, 0xa7, 0xb3} // approve(address,uint256)

// check checks a transaction that somebody wants broadcast: that it does nothing but allow Permit2 to move the payment's
// token, and that it is the payer's. Fees and nonce are the broadcaster's to judge; see [Transaction].
func (p Approval) check(a Authorization) error {
	switch {
	case p.From != a.From:
		return x402.Errorf("erc20_approval_from_mismatch", "approval is of %s, payment of %s", p.From, a.From)
	case p.Asset != a.Asset:
		return x402.Errorf("erc20_approval_asset_mismatch", "approval is for token %s, payment in %s", p.Asset, a.Asset)
	case p.Spender != Permit2Address:
		return x402.Errorf("erc20_approval_spender_not_permit2", "approval is for spender %s, want %s", p.Spender, Permit2Address)
	}
	tx, err := p.Transaction()
	if err != nil {
		return x402.Errorf("erc20_approval_tx_parse_failed", "approval: %w", err)
	}
	switch {
	case tx.To != a.Asset:
		return x402.Errorf("erc20_approval_tx_wrong_target", "approval calls %s, want token %s", tx.To, a.Asset)
	case !bytes.HasPrefix(tx.Data, approveSelector):
		return x402.Errorf("erc20_approval_tx_wrong_selector", "approval does not call approve")
	case len(tx.Data) != 4+64 || [12]byte(tx.Data[4:16]) != [12]byte{}:
		return x402.Errorf("erc20_approval_tx_invalid_calldata", "approval's call has %d bytes", len(tx.Data))
	case evm.Address(tx.Data[16:36]) != Permit2Address:
		return x402.Errorf("erc20_approval_tx_wrong_spender", "approval is for spender %s, want %s", evm.Address(tx.Data[16:36]), Permit2Address)
	}
	signer, err := tx.Sender()
	switch {
	case err != nil:
		return x402.Errorf("erc20_approval_tx_invalid_signature", "approval: %w", err)
	case signer != a.From:
		return x402.Errorf("erc20_approval_tx_signer_mismatch", "approval is signed by %s, payment by %s", signer, a.From)
	case tx.ChainID != a.ChainID:
		return x402.Errorf("erc20_approval_tx_invalid_signature", "approval is for chain %d, payment for %d", tx.ChainID, a.ChainID)
	case tx.Value != [32]byte{}:
		return x402.Errorf("erc20_approval_tx_invalid_calldata", "approval sends native coin along")
	}
	return nil
}

// Transaction reads the approval's transaction.
func (p Approval) Transaction() (evm.Transaction, error) { return evm.ParseTransaction(p.Raw) }

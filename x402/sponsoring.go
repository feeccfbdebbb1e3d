package x402

import "encoding/json"

// sponsored is what terms say of an extension by which the facilitator pays for the payer's approval of Permit2.
type sponsored struct {
	Description string `json:"description"`
	Version     string `json:"version"`
}

// DeclareEIP2612 returns the entry by which terms offer to take an allowance for Permit2 by signature. The facilitator has
// to list [EIP2612Key]. What clients add to its info is read by package exact.
func DeclareEIP2612() json.RawMessage {
	return declare(sponsored{"An allowance for Permit2 may come as an EIP-2612 signature; the facilitator pays its gas.", "1"},
		`{"type":"object","required":["from","asset","spender","amount","nonce","deadline","signature","version"]}`)
}

// DeclareERC20Approval returns the entry by which terms offer to broadcast a signed approval of Permit2. The facilitator
// has to list [ERC20ApprovalKey]. What clients add to its info is read by package exact.
func DeclareERC20Approval() json.RawMessage {
	return declare(sponsored{"An approval of Permit2 may come as a signed transaction; the facilitator broadcasts it.", "1"},
		`{"type":"object","required":["from","asset","spender","amount","signedTransaction","version"]}`)
}

package chain

import (
	"math/big"

	"github.com/ethereum/go-ethereum/common"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
)

// Contracts says where one deployment lives and packs the calls of its contracts. A packed call has its To, Data and
// Value; whoever sends it adds ID and From. Its methods are pure.
//
// The zero asset is the network's native coin wherever an asset is named.
type Contracts struct {
	Vault         evm.Address `json:"vault"`
	ClearingHouse evm.Address `json:"clearingHouse"`
}

// NoLimit removes a limit per cycle; see [Contracts.SetLimitPerCycle].
func NoLimit() money.Amount {
	var word [32]byte
	for i := range word {
		word[i] = 0xff
	}
	limit, _ := money.AmountFromBytes(word[:]) // 32 bytes always fit
	return limit
}

// Schedule is a version of an asset's cycle times, in seconds.
type Schedule struct {
	FromStart uint64 `json:"fromStart"` // Unix seconds; cycles start at FromStart + k × Length
	Length    uint32 `json:"length"`
	Cutoff    uint32 `json:"cutoff"`
	Post      uint32 `json:"post"`
	Challenge uint32 `json:"challenge"`
	Repost    uint32 `json:"repost"`
	Redeem    uint32 `json:"redeem"`
}

// Authorization is an EIP-3009 authorization to receive: whoever submits it, the tokens go to its To, and only when To
// asks for them itself.
type Authorization struct {
	From, To                evm.Address
	Value                   money.Amount
	ValidAfter, ValidBefore uint64 // Unix seconds
	Nonce                   evm.Hash
	Signature               evm.Signature
}

// Key is a BLS12-381 public key in G1, uncompressed: x and y of 64 bytes each as two words.
type Key [4][32]byte

// KeyProof is a BLS signature in G2, uncompressed, as eight words.
type KeyProof [8][32]byte

// Collateral.

// Deposit adds native coin to the sender's collateral.
func (c Contracts) Deposit(wei money.Amount) evm.Call {
	call := c.vault("deposit")
	call.Value = wei.Word()
	return call
}

// DepositStablecoin adds tokens to the sender's collateral, which must have been approved for the vault.
func (c Contracts) DepositStablecoin(asset evm.Address, amount money.Amount) evm.Call {
	return c.vault("depositStablecoin", common.Address(asset), bigOf(amount))
}

// DepositWithAuthorization adds tokens to the collateral of an authorization's signer. Anyone may send it.
func (c Contracts) DepositWithAuthorization(asset evm.Address, a Authorization) evm.Call {
	return c.vault("depositWithAuthorization", common.Address(asset), common.Address(a.From), bigOf(a.Value),
		bigOf(money.Units(a.ValidAfter)), bigOf(money.Units(a.ValidBefore)), [32]byte(a.Nonce),
		a.Signature[64], [32]byte(a.Signature[:32]), [32]byte(a.Signature[32:64]))
}

// RequestWithdrawal starts the clock of a withdrawal; a new request replaces an old one.
func (c Contracts) RequestWithdrawal(asset evm.Address, amount money.Amount) evm.Call {
	return c.vault("requestWithdrawal(address,uint256)", common.Address(asset), bigOf(amount))
}

// CancelWithdrawal takes a request back.
func (c Contracts) CancelWithdrawal(asset evm.Address) evm.Call {
	return c.vault("cancelWithdrawal(address)", common.Address(asset))
}

// FinalizeWithdrawal pays a request out to the sender once its delay has passed.
func (c Contracts) FinalizeWithdrawal(asset evm.Address) evm.Call {
	return c.vault("finalizeWithdrawal(address)", common.Address(asset))
}

// FinalizeWithdrawalTo pays a request out to another address once its delay has passed.
func (c Contracts) FinalizeWithdrawalTo(asset, to evm.Address) evm.Call {
	return c.vault("finalizeWithdrawalTo", common.Address(asset), common.Address(to))
}

// SetAutoSettle says whether being settled from collateral is what the sender wants, and no default.
func (c Contracts) SetAutoSettle(on bool) evm.Call { return c.vault("setAutoSettle", on) }

// SetLimitPerCycle caps what one cycle may take from the sender's collateral; [NoLimit] removes the cap.
func (c Contracts) SetLimitPerCycle(asset evm.Address, limit money.Amount) evm.Call {
	return c.vault("setLimitPerCycle", common.Address(asset), bigOf(limit))
}

// SetSigner names a key that signs for the sender, at once, or removes it, which acts after a withdrawal's delay.
func (c Contracts) SetSigner(key evm.Address, on bool) evm.Call {
	return c.vault("setSigner", common.Address(key), on)
}

// The operator.

// AddStablecoinAsset allows deposits of a token.
func (c Contracts) AddStablecoinAsset(asset evm.Address) evm.Call {
	return c.vault("addStablecoinAsset", common.Address(asset))
}

// RegisterKey lets a key certify guarantees of cycles that start at fromStart or later.
func (c Contracts) RegisterKey(key Key, proof KeyProof, fromStart uint64) evm.Call {
	return c.vault("registerKey", keyTuple(key), proofTuple(proof), fromStart)
}

// RevokeKey ends what a key may certify with the next cycle.
func (c Contracts) RevokeKey(index uint64) evm.Call {
	return c.vault("revokeKey", bigOf(money.Units(index)))
}

// DepositBond adds to the operator's bond. Native coin travels with the call; tokens must have been approved.
func (c Contracts) DepositBond(asset evm.Address, amount money.Amount) evm.Call {
	call := c.vault("depositBond", common.Address(asset), bigOf(amount))
	if asset.IsZero() {
		call.Value = amount.Word()
	}
	return call
}

// SetSchedule sets an asset's first schedule, or announces the next.
func (c Contracts) SetSchedule(asset evm.Address, s Schedule) evm.Call {
	return c.house("setSchedule", common.Address(asset), s)
}

// SetBondRule sets the least bond with which a cycle may be sealed: the largest of floor, perParticipant for each
// participant, and shareBps hundredths of a percent of the total. floor is below 2^112, perParticipant below 2^80.
func (c Contracts) SetBondRule(asset evm.Address, floor, perParticipant money.Amount, shareBps uint16) evm.Call {
	return c.house("setBondRule", common.Address(asset), bigOf(floor), bigOf(perParticipant), shareBps)
}

// PostPositions posts one chunk of a cycle: up to 2^height positions of 69 bytes.
func (c Contracts) PostPositions(asset evm.Address, periodStart, generation, chunk uint64, height uint8, positions []byte) evm.Call {
	return c.house("postPositions", common.Address(asset), periodStart, generation, chunk, height, positions)
}

// CommitCycle seals a posted cycle. Both of the interface's deadlines are the one given, which the contract checks and
// otherwise ignores.
func (c Contracts) CommitCycle(cycle evm.Hash, asset evm.Address, root evm.Hash, total money.Amount, deadline uint64) evm.Call {
	return c.house("commitCycle", [32]byte(cycle), common.Address(asset), [32]byte(root), bigOf(total), bigOf(total), deadline, deadline)
}

// The participants of a cycle.

// PayNetDebit pays the sender's net debit, which gives back the collateral that posting took. Native coin travels with
// the call; tokens must have been approved for the vault.
func (c Contracts) PayNetDebit(cycle evm.Hash, asset evm.Address, amount money.Amount, proof []evm.Hash) evm.Call {
	call := c.house("payNetDebit", [32]byte(cycle), bigOf(amount), words(proof))
	if asset.IsZero() {
		call.Value = amount.Word()
	}
	return call
}

// MarkDefaulted marks a debtor of a final cycle that did not pay. It moves no money.
func (c Contracts) MarkDefaulted(cycle evm.Hash, debtor evm.Address, amount money.Amount, proof []evm.Hash) evm.Call {
	return c.house("markDefaulted", [32]byte(cycle), common.Address(debtor), bigOf(amount), words(proof))
}

// ClaimNetCredit pays the sender's net credit of a final cycle to the sender.
func (c Contracts) ClaimNetCredit(cycle evm.Hash, amount money.Amount, proof []evm.Hash) evm.Call {
	return c.house("claimNetCredit", [32]byte(cycle), bigOf(amount), words(proof))
}

// Claim is a creditor's position in one final cycle.
type Claim struct {
	Cycle  evm.Hash
	Amount money.Amount
	Proof  []evm.Hash
}

// ClaimMany pays the sender's net credits of several final cycles to one address.
func (c Contracts) ClaimMany(claims []Claim, to evm.Address) evm.Call {
	cycles, amounts, proofs := make([][32]byte, len(claims)), make([]*big.Int, len(claims)), make([][][32]byte, len(claims))
	for i, claim := range claims {
		cycles[i], amounts[i], proofs[i] = claim.Cycle, bigOf(claim.Amount), words(claim.Proof)
	}
	return c.house("claimMany", cycles, amounts, proofs, common.Address(to))
}

// ClaimToVault turns a creditor's net credit into its collateral. Anyone may send it.
func (c Contracts) ClaimToVault(cycle evm.Hash, creditor evm.Address, amount money.Amount, proof []evm.Hash) evm.Call {
	return c.house("claimToVault", [32]byte(cycle), common.Address(creditor), bigOf(amount), words(proof))
}

// FinalizeCycle ends a cycle's challenge window when it is over.
func (c Contracts) FinalizeCycle(cycle evm.Hash) evm.Call {
	return c.house("finalizeCycle", [32]byte(cycle))
}

// Release gives back what a chunk of a voided or abandoned posting took; positions are the bytes that were posted.
func (c Contracts) Release(cycle evm.Hash, generation, chunk uint64, positions []byte) evm.Call {
	return c.house("release", [32]byte(cycle), generation, chunk, positions)
}

// Tokens.

// Approve lets a spender take tokens from the sender.
func Approve(token, spender evm.Address, amount money.Amount) evm.Call {
	return evm.Call{To: token, Data: pack(dollarABI, "approve", common.Address(spender), bigOf(amount))}
}

// Transfer sends tokens.
func Transfer(token, to evm.Address, amount money.Amount) evm.Call {
	return evm.Call{To: token, Data: pack(dollarABI, "transfer", common.Address(to), bigOf(amount))}
}

// Mint makes test dollars from nothing; real tokens refuse it.
func Mint(token, to evm.Address, amount money.Amount) evm.Call {
	return evm.Call{To: token, Data: pack(dollarABI, "mint", common.Address(to), bigOf(amount))}
}

func (c Contracts) vault(method string, args ...any) evm.Call {
	return evm.Call{To: c.Vault, Data: pack(vaultABI, method, args...)}
}

func (c Contracts) house(method string, args ...any) evm.Call {
	return evm.Call{To: c.ClearingHouse, Data: pack(houseABI, method, args...)}
}

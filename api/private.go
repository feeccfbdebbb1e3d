package api

import (
	"net/http"
	"slices"

	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/x402"
)

// hexAmount is an amount as 4Mica's core writes it in balances and payments.
type hexAmount money.Amount

// MarshalText implements encoding.TextMarshaler with minimal hexadecimal digits.
func (a hexAmount) MarshalText() ([]byte, error) { return []byte(money.Amount(a).Hex()), nil }

type assetBalanceAnswer struct {
	User      evm.Address `json:"user_address"`
	Asset     evm.Address `json:"asset_address"`
	Total     hexAmount   `json:"total"`
	Locked    hexAmount   `json:"locked"`
	Version   uint64      `json:"version"`
	UpdatedAt int64       `json:"updated_at"`
}

// assetBalance answers as 4Mica's core does. That core counts versions of a row; here a balance is as of now, so the
// version is the second at which it was read.
func (h *handler) assetBalance(r *http.Request) (any, error) {
	a, err := h.account(r, r.PathValue("asset"))
	if err != nil {
		return nil, err
	}
	if a == (clearing.Account{Owner: a.Owner, Asset: a.Asset}) {
		return nil, nil
	}
	now := h.Now().Unix()
	return assetBalanceAnswer{a.Owner, a.Asset, hexAmount(a.Collateral()), hexAmount(a.Exposure()), uint64(max(0, now)), now}, nil
}

type balanceAnswer struct {
	User       evm.Address   `json:"user_address"`
	Asset      evm.Address   `json:"asset_address"`
	Collateral money.Amount  `json:"collateral"`
	Exposure   money.Amount  `json:"exposure"`
	Withdrawal money.Amount  `json:"withdrawal"`
	Headroom   money.Amount  `json:"headroom"`
	Limit      *money.Amount `json:"limit_per_cycle"`
	AutoSettle bool          `json:"auto_settle"`
}

// balance answers for one asset, or for all that are cleared here.
func (h *handler) balance(r *http.Request) (any, error) {
	if text := r.URL.Query().Get("asset"); text != "" {
		a, err := h.account(r, text)
		if err != nil {
			return nil, err
		}
		return balanceOf(a), nil
	}
	assets, err := h.House.Assets(r.Context())
	if err != nil {
		return nil, err
	}
	list := make([]balanceAnswer, len(assets))
	for i, asset := range assets {
		a, err := h.account(r, asset.Lower())
		if err != nil {
			return nil, err
		}
		list[i] = balanceOf(a)
	}
	return map[string]any{"balances": list}, nil
}

func balanceOf(a clearing.Account) balanceAnswer {
	b := balanceAnswer{
		User: a.Owner, Asset: a.Asset, Collateral: a.Collateral(), Exposure: a.Exposure(), Withdrawal: a.Held(), Headroom: a.Headroom(),
		AutoSettle: a.AutoSettle,
	}
	if limit, ok := a.Limit(); ok {
		b.Limit = &limit
	}
	return b
}

func (h *handler) account(r *http.Request, assetText string) (clearing.Account, error) {
	user, err := evm.ParseAddress(r.PathValue("user"))
	if err != nil {
		return clearing.Account{}, x402.Errorf("malformed_request", "user: %w", err)
	}
	asset, err := h.asset(assetText)
	if err != nil {
		return clearing.Account{}, err
	}
	return h.House.Account(r.Context(), user, asset)
}

type guaranteeAnswer struct {
	ID        evm.Hash                 `json:"guarantee_id"`
	Digest    evm.Hash                 `json:"digest"`
	Cycle     evm.Hash                 `json:"cycle_id"`
	CycleText string                   `json:"cycle_id_text"`
	Status    clearing.GuaranteeStatus `json:"status"`
	Request   guarantee.Signed         `json:"request"`
	Payable   money.Amount             `json:"payable"`
	Note      *guarantee.SignedNote    `json:"note"`
	Backed    money.Amount             `json:"backed,omitzero"`  // of a refund, by claims instead of collateral
	Pledged   money.Amount             `json:"pledged,omitzero"` // backs refunds of the payee
	At        int64                    `json:"admitted_at_ms"`
}

func (h *handler) guarantee(r *http.Request) (any, error) {
	digest, err := evm.ParseHash(r.PathValue("digest"))
	if err != nil {
		return nil, x402.Errorf("malformed_request", "digest: %w", err)
	}
	s, err := h.House.Guarantee(r.Context(), digest)
	if err != nil {
		return nil, err
	}
	g := s.Guarantee
	return guaranteeAnswer{
		ID: guarantee.ID(g.Signed.Claims, g.Cycle.Start), Digest: g.Digest, Cycle: g.Cycle.ID(), CycleText: g.Cycle.String(),
		Status: s.Status, Request: g.Signed, Payable: g.Payable, Note: g.Note, Backed: g.Backed, Pledged: g.Pledged, At: g.At,
	}, nil
}

// paymentAnswer has 4Mica's members first. There is no transaction behind a guarantee, so tx_hash is empty.
type paymentAnswer struct {
	User      evm.Address `json:"user_address"`
	Recipient evm.Address `json:"recipient_address"`
	TxHash    string      `json:"tx_hash"`
	Amount    hexAmount   `json:"amount"`
	Verified  bool        `json:"verified"`
	Finalized bool        `json:"finalized"`
	Failed    bool        `json:"failed"`
	CreatedAt int64       `json:"created_at"` // unix seconds

	Asset     evm.Address              `json:"asset_address"`
	Guarantee evm.Hash                 `json:"guarantee_id"`
	Digest    evm.Hash                 `json:"digest"`
	CycleText string                   `json:"cycle_id_text"`
	Status    clearing.GuaranteeStatus `json:"status"`
}

// Of each of the newest cycles of each asset, at most so many guarantees are looked at.
const (
	paymentsPerCycle = 1000
	paymentCycles    = 10
	paymentsMax      = 1000
)

// payments lists what a payee was promised, the newest first.
func (h *handler) payments(r *http.Request) (any, error) {
	payee, err := evm.ParseAddress(r.PathValue("recipient"))
	if err != nil {
		return nil, x402.Errorf("malformed_request", "recipient: %w", err)
	}
	limit, err := limitOf(r, 100, paymentsMax)
	if err != nil {
		return nil, err
	}
	assets, err := h.House.Assets(r.Context())
	if err != nil {
		return nil, err
	}
	type dated struct {
		ms int64
		paymentAnswer
	}
	var all []dated
	for _, asset := range assets {
		cycles, err := h.House.Cycles(r.Context(), asset, paymentCycles)
		if err != nil {
			return nil, err
		}
		for _, c := range cycles {
			list, err := h.House.Guarantees(r.Context(), c.Ref.String(), payee, 0, paymentsPerCycle)
			if err != nil {
				return nil, err
			}
			for _, s := range list {
				if s.Guarantee.Signed.Claims.Payee == payee {
					all = append(all, dated{s.Guarantee.At, paymentOf(s)})
				}
			}
		}
	}
	slices.SortStableFunc(all, func(a, b dated) int { return int(min(1, max(-1, b.ms-a.ms))) })
	out := make([]paymentAnswer, 0, min(limit, len(all)))
	for _, p := range all[:min(limit, len(all))] {
		out = append(out, p.paymentAnswer)
	}
	return out, nil
}

func paymentOf(s clearing.Standing) paymentAnswer {
	g, c := s.Guarantee, s.Guarantee.Signed.Claims
	return paymentAnswer{
		User: c.Payer, Recipient: c.Payee, Amount: hexAmount(g.Payable), Verified: true,
		Finalized: s.Status == clearing.StatusSettled || s.Status == clearing.StatusRemunerate,
		Failed:    s.Status == clearing.StatusDisputed || s.Status == clearing.StatusCancelled, CreatedAt: g.At / 1000,
		Asset: c.Asset, Guarantee: guarantee.ID(c, g.Cycle.Start), Digest: g.Digest, CycleText: g.Cycle.String(), Status: s.Status,
	}
}

type statementAnswer struct {
	Cycle       evm.Hash      `json:"cycle_id"`
	CycleText   string        `json:"cycle_id_text"`
	Asset       evm.Address   `json:"asset_address"`
	Generation  uint64        `json:"generation"`
	Participant evm.Address   `json:"participant"`
	Preliminary bool          `json:"preliminary"` // the cycle is not netted
	Out         money.Amount  `json:"out"`
	In          money.Amount  `json:"in"`
	Entries     []entryAnswer `json:"entries"`
	Root        evm.Hash      `json:"entries_root"`
	Hash        evm.Hash      `json:"statement"`
}

type entryAnswer struct {
	Direction    string       `json:"direction"` // out, in
	Digest       evm.Hash     `json:"digest"`
	Counterparty evm.Address  `json:"counterparty"`
	Amount       money.Amount `json:"amount"`
	Evidence     evm.Hash     `json:"evidence"`
}

func (h *handler) statement(r *http.Request) (any, error) {
	participant, err := evm.ParseAddress(r.PathValue("participant"))
	if err != nil {
		return nil, x402.Errorf("malformed_request", "participant: %w", err)
	}
	if _, err := h.House.Cycle(r.Context(), r.PathValue("cycle")); err != nil {
		return nil, h.public(r, err, "cycle_unknown", "internal")
	}
	s, err := h.House.Statement(r.Context(), r.PathValue("cycle"), participant)
	if err != nil {
		return nil, h.public(r, err, "position_unknown", "internal")
	}
	a := statementAnswer{
		Cycle: s.Cycle.Ref.ID(), CycleText: s.Cycle.Ref.String(), Asset: s.Cycle.Ref.Asset, Generation: s.Cycle.Generation,
		Participant: s.Participant, Preliminary: s.Cycle.Status == clearing.Open || s.Cycle.Status == clearing.Frozen,
		Out: s.Out, In: s.In, Entries: make([]entryAnswer, len(s.Entries)), Root: s.Root, Hash: s.Hash,
	}
	for i, e := range s.Entries {
		direction := "out"
		if e.Direction == clearing.In {
			direction = "in"
		}
		a.Entries[i] = entryAnswer{direction, e.Digest, e.Counterparty, e.Amount, e.Evidence}
	}
	return a, nil
}

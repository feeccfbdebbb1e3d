package api

import (
	"errors"
	"net/http"
	"strconv"

	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/x402"
)

type cycleAnswer struct {
	ID           evm.Hash             `json:"cycle_id"`
	Text         string               `json:"cycle_id_text"`
	Asset        evm.Address          `json:"asset_address"`
	Status       string               `json:"status"`
	State        clearing.CycleStatus `json:"state"`
	Generation   uint64               `json:"generation"`
	Start        uint64               `json:"period_start"`
	End          uint64               `json:"period_end"`
	Cutoff       uint64               `json:"resolution_cutoff"`
	PostDeadline uint64               `json:"post_deadline"`
	SealedAt     uint64               `json:"sealed_at"`
	FinalAt      uint64               `json:"final_at"`
	Guarantees   uint64               `json:"guarantees"`
	Participants uint64               `json:"participants"`
	Debtors      uint64               `json:"debtors"`
	Gross        money.Amount         `json:"gross"`
	Total        money.Amount         `json:"total"`
	Root         evm.Hash             `json:"merkle_root"`
	Statements   evm.Hash             `json:"statement_root"`
	Trouble      string               `json:"trouble,omitempty"`
}

// wireStatus spells a cycle's status as 4Mica does. A failed cycle is redeemed, which that protocol does not know: to its
// clients it is cancelled.
var wireStatus = map[clearing.CycleStatus]string{
	clearing.Open: "OPEN", clearing.Frozen: "FROZEN", clearing.Netted: "NETTING_COMPUTED", clearing.Committed: "PAYMENT_WINDOW_OPEN",
	clearing.Final: "FINALIZED", clearing.Closed: "FINALIZED", clearing.Failed: "CANCELLED",
}

func cycleOf(c clearing.Cycle) cycleAnswer {
	return cycleAnswer{
		ID: c.Ref.ID(), Text: c.Ref.String(), Asset: c.Ref.Asset, Status: wireStatus[c.Status], State: c.Status, Generation: c.Generation,
		Start: c.Ref.Start, End: c.End, Cutoff: c.CutoffAt, PostDeadline: c.PostDeadline, SealedAt: c.SealedAt, FinalAt: c.FinalAt,
		Guarantees: c.Guarantees, Participants: c.Participants, Debtors: c.Debtors, Gross: c.Gross, Total: c.Total,
		Root: c.Root, Statements: c.Statements, Trouble: c.Trouble,
	}
}

func (h *handler) cycles(r *http.Request) (any, error) {
	asset, err := h.asset(r.URL.Query().Get("asset"))
	if err != nil {
		return nil, err
	}
	limit, err := limitOf(r, 20, cyclesMax)
	if err != nil {
		return nil, err
	}
	before, err := startCursor(r)
	if err != nil {
		return nil, err
	}
	list, err := h.House.CyclesBefore(r.Context(), asset, before, limit)
	if err != nil {
		return nil, err
	}
	out := make([]cycleAnswer, len(list))
	for i, c := range list {
		out[i] = cycleOf(c)
	}
	a := map[string]any{"cycles": out, "next_cursor": nil}
	if len(list) == limit {
		a["next_cursor"] = startCursorOf(list[limit-1].Ref.Start)
	}
	return a, nil
}

// startCursor reads a cursor over cycles, which is where the last one seen began; 0 for none.
func startCursor(r *http.Request) (uint64, error) {
	text := r.URL.Query().Get("cursor")
	if text == "" {
		return 0, nil
	}
	start, err := strconv.ParseUint(text, 10, 63)
	if err != nil || start == 0 {
		return 0, errCursor
	}
	return start, nil
}

func startCursorOf(start uint64) string { return strconv.FormatUint(start, 10) }

var errCursor = x402.Errorf("malformed_request", "cursor is not one that this list gave")

// timingsAnswer are a cycle's deadlines by the names that 4Mica has for them, in unix seconds. What follows the seal is null
// until then; it comes at the latest as if the cycle were sealed at its deadline.
type timingsAnswer struct {
	Cycle         evm.Hash    `json:"cycle_id"`
	CycleText     string      `json:"cycle_id_text"`
	Asset         evm.Address `json:"asset_address"`
	Status        string      `json:"status"`
	Now           uint64      `json:"now"`
	Start         uint64      `json:"period_start"`
	End           uint64      `json:"period_end"`
	Cutoff        uint64      `json:"resolution_cutoff"`
	Commit        uint64      `json:"clearing_commit_deadline"`
	Submission    *uint64     `json:"payment_submission_deadline"`
	Finality      *uint64     `json:"payment_finality_deadline"`
	FinalityAtMax uint64      `json:"payment_finality_deadline_latest"`
}

func (h *handler) timings(r *http.Request) (any, error) {
	c, err := h.namedCycle(r)
	if err != nil {
		return nil, err
	}
	a := timingsAnswer{
		Cycle: c.Ref.ID(), CycleText: c.Ref.String(), Asset: c.Ref.Asset, Status: wireStatus[c.Status], Now: uint64(max(0, h.Now().Unix())),
		Start: c.Ref.Start, End: c.End, Cutoff: c.CutoffAt, Commit: c.PostDeadline, FinalityAtMax: c.PostDeadline + c.Challenge,
	}
	if c.SealedAt > 0 {
		a.Submission, a.Finality, a.FinalityAtMax = &c.FinalAt, &c.FinalAt, c.FinalAt
	}
	return a, nil
}

// namedCycle is the one in the path, which may be the current one of an asset.
func (h *handler) namedCycle(r *http.Request) (clearing.Cycle, error) {
	if id := r.PathValue("cycle"); id == "" || id == "current" {
		asset, err := h.asset(r.URL.Query().Get("asset"))
		if err != nil {
			return clearing.Cycle{}, err
		}
		return h.House.Current(r.Context(), asset, h.Now())
	}
	c, err := h.House.Cycle(r.Context(), r.PathValue("cycle"))
	if err != nil {
		return c, h.public(r, err, "cycle_unknown", "internal")
	}
	return c, nil
}

// unsettled lists the cycles that a participant has a claim on or owes to. Positions are public, as they are on chain.
func (h *handler) unsettled(r *http.Request) (any, error) {
	asset, err := h.asset(r.URL.Query().Get("asset"))
	if err != nil {
		return nil, err
	}
	participant, err := evm.ParseAddress(r.PathValue("participant"))
	if err != nil {
		return nil, x402.Errorf("malformed_request", "participant: %w", err)
	}
	limit, err := limitOf(r, 20, unsettledMax)
	if err != nil {
		return nil, err
	}
	list, err := h.House.Unsettled(r.Context(), asset, participant, limit)
	if err != nil {
		return nil, err
	}
	out := make([]cycleAnswer, len(list))
	for i, c := range list {
		out[i] = cycleOf(c)
	}
	return map[string]any{"cycles": out}, nil
}

func (h *handler) cycle(r *http.Request) (any, error) {
	c, err := h.namedCycle(r)
	if err != nil {
		return nil, err
	}
	return cycleOf(c), nil
}

type proofAnswer struct {
	Cycle       evm.Hash     `json:"cycle_id"`
	CycleText   string       `json:"cycle_id_text"`
	Asset       evm.Address  `json:"asset_address"`
	Participant evm.Address  `json:"participant"`
	Role        string       `json:"role"`
	Amount      money.Amount `json:"amount"`
	NetDebit    money.Amount `json:"net_debit"`
	NetCredit   money.Amount `json:"net_credit"`
	Leaf        evm.Hash     `json:"leaf"`
	Root        evm.Hash     `json:"merkle_root"`
	Proof       []evm.Hash   `json:"proof"`
}

// proof finds a participant's proof. A cycle that is not netted has none yet, and a flat participant none that leads to
// an action: both are 400 to 4Mica's clients, hence here.
func (h *handler) proof(r *http.Request) (clearing.Proof, error) {
	participant, err := evm.ParseAddress(r.PathValue("participant"))
	if err != nil {
		return clearing.Proof{}, x402.Errorf("malformed_request", "participant: %w", err)
	}
	id := r.PathValue("cycle")
	c, err := h.House.Cycle(r.Context(), id)
	if err != nil {
		return clearing.Proof{}, h.public(r, err, "cycle_unknown", "internal")
	}
	if c.Status == clearing.Open || c.Status == clearing.Frozen {
		return clearing.Proof{}, x402.Errorf("action_wrong", "cycle %s is %s: it is netted at %d", c.Ref, c.Status, c.CutoffAt)
	}
	p, err := h.House.Proof(r.Context(), id, participant)
	if err != nil {
		return clearing.Proof{}, h.public(r, err, "position_unknown", "internal")
	}
	if p.Position.Role == clearing.Flat {
		return clearing.Proof{}, x402.Errorf("action_wrong", "%s came out even in cycle %s: nothing to pay or to collect", participant, c.Ref)
	}
	if p.Siblings == nil {
		p.Siblings = []evm.Hash{}
	}
	return p, nil
}

func (h *handler) clearingProof(r *http.Request) (any, error) {
	p, err := h.proof(r)
	if err != nil {
		return nil, err
	}
	a := proofAnswer{
		Cycle: p.Cycle.Ref.ID(), CycleText: p.Cycle.Ref.String(), Asset: p.Cycle.Ref.Asset, Participant: p.Position.Participant,
		Role: "NET_DEBTOR", Amount: p.Position.Amount, NetDebit: p.Position.Amount, Leaf: p.Leaf, Root: p.Cycle.Root, Proof: p.Siblings,
	}
	if p.Position.Role == clearing.Creditor {
		a.Role, a.NetDebit, a.NetCredit = "NET_CREDITOR", money.Amount{}, p.Position.Amount
	}
	return a, nil
}

type actionAnswer struct {
	Contract     evm.Address  `json:"contract_address"`
	Function     string       `json:"function_name"`
	Action       string       `json:"action"`
	Cycle        evm.Hash     `json:"cycle_id"`
	CycleText    string       `json:"cycle_id_text"`
	Asset        evm.Address  `json:"asset_address"`
	Participant  evm.Address  `json:"participant"`
	Debtor       *evm.Address `json:"debtor"`
	Amount       money.Amount `json:"amount"`
	PayableValue money.Amount `json:"payable_value"`
	Proof        []evm.Hash   `json:"proof"`
}

// action is a contract call and when it is right.
type action struct {
	function string
	role     clearing.Role
	check    func(c clearing.Cycle, p clearing.PositionFlags, now uint64) error
}

var actions = map[string]action{
	"pay_net_debit": {"payNetDebit", clearing.Debtor, func(c clearing.Cycle, f clearing.PositionFlags, _ uint64) error {
		switch {
		case f.Paid:
			return errors.New("it is paid already")
		case f.Defaulted:
			return errors.New("it is marked as defaulted: the collateral has paid it")
		case c.Status != clearing.Committed && c.Status != clearing.Final:
			return errors.New("it is paid while the cycle is committed")
		}
		return nil
	}},
	"claim_net_credit": {"claimNetCredit", clearing.Creditor, func(c clearing.Cycle, f clearing.PositionFlags, now uint64) error {
		switch {
		case f.Claimed:
			return errors.New("it is collected already")
		case !final(c, now):
			return errors.New("it is collected once the cycle is final")
		}
		return nil
	}},
	"mark_defaulted": {"markDefaulted", clearing.Debtor, func(c clearing.Cycle, f clearing.PositionFlags, now uint64) error {
		switch {
		case f.Paid:
			return errors.New("it is paid")
		case f.Defaulted:
			return errors.New("it is marked already")
		case !final(c, now):
			return errors.New("it is marked once the cycle is final")
		}
		return nil
	}},
}

// final goes by the chain's rule, not by what was applied at depth: the first claim after the window also finalizes.
func final(c clearing.Cycle, now uint64) bool {
	return c.Status == clearing.Final || c.Status == clearing.Closed || c.Status == clearing.Committed && now > c.FinalAt
}

func (h *handler) clearingAction(r *http.Request) (any, error) {
	name := r.URL.Query().Get("action")
	act, ok := actions[name]
	if !ok {
		return nil, x402.Errorf("action_wrong", "action %q: there are pay_net_debit, claim_net_credit and mark_defaulted", clip(name))
	}
	participant, err := evm.ParseAddress(r.PathValue("participant"))
	if err != nil {
		return nil, x402.Errorf("malformed_request", "participant: %w", err)
	}
	if name != "mark_defaulted" { // which anybody may, and which moves no money
		if err := callerOf(r).isOr(participant, RoleAdmin, RoleFacilitator); err != nil {
			return nil, err
		}
	}
	p, err := h.proof(r)
	if err != nil {
		return nil, err
	}
	who, ref := p.Position.Participant, p.Cycle.Ref
	if p.Position.Role != act.role {
		return nil, x402.Errorf("action_wrong", "%s: %s is not a debtor or creditor for whom this is, in cycle %s", name, who, ref)
	}
	if err := act.check(p.Cycle, p.Position.Flags, uint64(max(0, h.Now().Unix()))); err != nil {
		return nil, x402.Errorf("action_wrong", "%s in cycle %s, which is %s: %w", name, ref, p.Cycle.Status, err)
	}
	a := actionAnswer{
		Contract: h.House.Deployment.ClearingHouse, Function: act.function, Action: name, Cycle: ref.ID(), CycleText: ref.String(),
		Asset: ref.Asset, Participant: who, Amount: p.Position.Amount, Proof: p.Siblings,
	}
	if name == "mark_defaulted" {
		a.Debtor = &who
	}
	if name == "pay_net_debit" && ref.Asset.IsZero() {
		a.PayableValue = p.Position.Amount
	}
	return a, nil
}

// asset reads an address, or the symbol of a token that is cleared here.
func (h *handler) asset(text string) (evm.Address, error) {
	for _, t := range h.Tokens {
		if t.Symbol == text {
			return t.Address, nil
		}
	}
	a, err := evm.ParseAddress(text)
	if err != nil {
		return evm.Address{}, x402.Errorf("malformed_request", "asset: %w", err)
	}
	return a, nil
}

func limitOf(r *http.Request, usual, most int) (int, error) {
	text := r.URL.Query().Get("limit")
	if text == "" {
		return usual, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > most {
		return 0, x402.Errorf("malformed_request", "limit %q: between 1 and %d", clip(text), most)
	}
	return n, nil
}

// signerAnswer is a key that an owner has named on chain, which everybody can read there.
type signerAnswer struct {
	Key   evm.Address `json:"key"`
	Until uint64      `json:"until,omitempty"` // unix seconds; 0 while it is not removed
}

// signers answers with the keys that sign an owner's notes beside its own.
func (h *handler) signers(r *http.Request) (any, error) {
	owner, err := evm.ParseAddress(r.PathValue("owner"))
	if err != nil {
		return nil, x402.Errorf("malformed_request", "owner: %w", err)
	}
	named, err := h.House.Signers(r.Context(), owner)
	if err != nil {
		return nil, err
	}
	list := make([]signerAnswer, 0, len(named))
	for _, s := range named {
		a := signerAnswer{s.Key, s.Until}
		if s.Until == clearing.Forever {
			a.Until = 0
		}
		list = append(list, a)
	}
	return map[string]any{"signers": list}, nil
}

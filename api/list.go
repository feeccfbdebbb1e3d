package api

import (
	"encoding/base64"
	"encoding/csv"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/x402"
)

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
	// Of a guarantee that depends on a validator.
	Validation *validationAnswer `json:"validation,omitempty"`
}

type validationAnswer struct {
	AnsweredAt *uint64 `json:"answered_at"`    // unix seconds of the chain; null while there is no answer that counts
	NettedIn   *string `json:"netted_in_text"` // the cycle that nets it, null while none does
}

func validationOf(g clearing.Guarantee) *validationAnswer {
	v := g.Validation
	if v == nil {
		return nil
	}
	a := new(validationAnswer)
	if v.Answered != 0 {
		text := g.Netting().String()
		a.AnsweredAt, a.NettedIn = &v.Answered, &text
	}
	return a
}

func guaranteeOf(s clearing.Standing) guaranteeAnswer {
	g := s.Guarantee
	return guaranteeAnswer{
		ID: guarantee.ID(g.Signed.Claims, g.Cycle.Start), Digest: g.Digest, Cycle: g.Cycle.ID(), CycleText: g.Cycle.String(),
		Status: s.Status, Request: g.Signed, Payable: g.Payable, Note: g.Note, Backed: g.Backed, Pledged: g.Pledged, At: g.At,
		Validation: validationOf(g),
	}
}

func (h *handler) guarantee(r *http.Request) (any, error) {
	s, err := h.namedGuarantee(r)
	if err != nil {
		return nil, err
	}
	return guaranteeOf(s), nil
}

// certificate makes a guarantee's certificate again, for those who had it the first time.
func (h *handler) certificate(r *http.Request) (any, error) {
	s, err := h.namedGuarantee(r)
	if err != nil {
		return nil, err
	}
	c, err := h.House.Certificate(s.Guarantee)
	if err != nil {
		return nil, err
	}
	return certificateAnswer{Certificate: c}, nil
}

// namedGuarantee is the one in the path, which the caller must be a party of: by its digest, or by its key, which is payer,
// payee, asset and request id with colons between.
func (h *handler) namedGuarantee(r *http.Request) (s clearing.Standing, err error) {
	text := r.PathValue("guarantee")
	if strings.Contains(text, ":") {
		k, err := parseKey(text)
		if err != nil {
			return s, err
		}
		if s, err = h.House.GuaranteeByKey(r.Context(), k); err != nil {
			return s, err
		}
	} else {
		digest, err := evm.ParseHash(text)
		if err != nil {
			return s, x402.Errorf("malformed_request", "guarantee: %w", err).WithHint("name it by its digest, or by payer:payee:asset:request id")
		}
		if s, err = h.House.Guarantee(r.Context(), digest); err != nil {
			return s, err
		}
	}
	c := s.Guarantee.Signed.Claims
	if who := callerOf(r); who.address != c.Payee {
		err = who.isOr(c.Payer, RoleAdmin, RoleFacilitator)
	}
	return s, err
}

func parseKey(text string) (k guarantee.Key, err error) {
	parts := strings.Split(text, ":")
	if len(parts) != 4 {
		return k, x402.Errorf("malformed_request", "guarantee: a key is payer:payee:asset:request id")
	}
	for i, to := range []*evm.Address{&k.Payer, &k.Payee, &k.Asset} {
		if *to, err = evm.ParseAddress(parts[i]); err != nil {
			return k, x402.Errorf("malformed_request", "guarantee: %w", err)
		}
	}
	id, err := money.ParseAmount(parts[3])
	if err != nil {
		return k, x402.Errorf("malformed_request", "guarantee: request id: %w", err)
	}
	k.ReqID = id.Word()
	return k, nil
}

// statuses are those by which lists can be narrowed.
var statuses = []clearing.GuaranteeStatus{
	clearing.StatusPayable, clearing.StatusCancelled, clearing.StatusNetted, clearing.StatusSettled, clearing.StatusRemunerate, clearing.StatusDisputed,
}

const listMax = 500

// listGuarantees lists the guarantees of a payer or a payee, or of a cycle, the newest first. A page is of so many that were
// looked at: those that a status leaves out make it shorter, and next_cursor goes on behind them.
func (h *handler) listGuarantees(r *http.Request) (any, error) {
	q := r.URL.Query()
	limit, err := limitOf(r, 100, listMax)
	if err != nil {
		return nil, err
	}
	list := clearing.Listing{Limit: limit}
	party := func(name string) (*evm.Address, error) {
		text := q.Get(name)
		if text == "" {
			return nil, nil
		}
		a, err := evm.ParseAddress(text)
		if err != nil {
			return nil, x402.Errorf("malformed_request", "%s: %w", name, err)
		}
		return &a, nil
	}
	payer, err := party("payer")
	if err != nil {
		return nil, err
	}
	payee, err := party("payee")
	if err != nil {
		return nil, err
	}
	if text := q.Get("cycle"); text != "" {
		c, err := h.House.Cycle(r.Context(), text)
		if err != nil {
			return nil, h.public(r, err, "cycle_unknown", "internal")
		}
		list.Asset, list.InCycle, list.Start = c.Ref.Asset, true, c.Ref.Start
	} else if list.Asset, err = h.assetOrOnly(r); err != nil {
		return nil, err
	}
	status := clearing.GuaranteeStatus(strings.ToUpper(q.Get("status")))
	if status != "" && !slices.Contains(statuses, status) {
		return nil, x402.Errorf("malformed_request", "status %q: there are %v", clip(string(status)), statuses)
	}
	// One of the parties is walked along, the other one narrows.
	who := callerOf(r)
	mine := func(a *evm.Address) bool { return a != nil && who.isOr(*a, RoleAdmin) == nil }
	switch {
	case mine(payer):
		list.Payer = payer
	case mine(payee):
		list.Payee = payee
	case payer != nil || payee != nil:
		return nil, x402.Errorf("forbidden", "%s is logged in, and is neither payer nor payee of what is asked for", who.address)
	case list.InCycle && who.wallet.Role == RoleAdmin:
	default:
		return nil, x402.Errorf("malformed_request", "payer or payee is missing")
	}
	if text := q.Get("cursor"); text != "" {
		if list.Before, err = parsePlace(text); err != nil {
			return nil, err
		}
	}
	rows, err := h.House.List(r.Context(), list)
	if err != nil {
		return nil, err
	}
	out := make([]guaranteeAnswer, 0, len(rows))
	for _, row := range rows {
		c := row.Guarantee.Signed.Claims
		if (status == "" || row.Status == status) && (payer == nil || c.Payer == *payer) && (payee == nil || c.Payee == *payee) {
			out = append(out, guaranteeOf(row.Standing))
		}
	}
	a := map[string]any{"guarantees": out, "next_cursor": nil}
	if len(rows) == limit {
		a["next_cursor"] = placeText(rows[limit-1].Place)
	}
	return a, nil
}

// placeText and parsePlace spell a place in a list as a cursor, which clients hand back as it is.
func placeText(p clearing.Place) string {
	return base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, "%d.%d", p.Start, p.Seq))
}

func parsePlace(text string) (p clearing.Place, err error) {
	raw, err := base64.RawURLEncoding.DecodeString(text)
	start, seq, ok := strings.Cut(string(raw), ".")
	if err != nil || !ok {
		return p, errCursor
	}
	var err1, err2 error
	p.Start, err1 = strconv.ParseUint(start, 10, 63)
	p.Seq, err2 = strconv.ParseUint(seq, 10, 63)
	if err1 != nil || err2 != nil || p == (clearing.Place{}) {
		return p, errCursor
	}
	return p, nil
}

// assetOrOnly is the asset that is asked about: the one that is cleared here, if it is the only one and none is named.
func (h *handler) assetOrOnly(r *http.Request) (evm.Address, error) {
	text := r.URL.Query().Get("asset")
	if text == "" {
		assets, err := h.House.Assets(r.Context())
		if err != nil {
			return evm.Address{}, err
		}
		if len(assets) == 1 {
			return assets[0], nil
		}
	}
	return h.asset(text)
}

// paymentAnswer has 4Mica's members first. There is no transaction behind a guarantee, so tx_hash is empty; what waits for a
// validator is not verified.
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

const paymentsMax = 1000

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
	var all []clearing.ListedStanding
	for _, asset := range assets {
		list, err := h.House.List(r.Context(), clearing.Listing{Asset: asset, Payee: &payee, Limit: limit})
		if err != nil {
			return nil, err
		}
		all = append(all, list...)
	}
	slices.SortStableFunc(all, func(a, b clearing.ListedStanding) int { return int(min(1, max(-1, b.Guarantee.At-a.Guarantee.At))) })
	out := make([]paymentAnswer, 0, min(limit, len(all)))
	for _, s := range all[:min(limit, len(all))] {
		out = append(out, paymentOf(s.Standing))
	}
	return out, nil
}

func paymentOf(s clearing.Standing) paymentAnswer {
	g, c := s.Guarantee, s.Guarantee.Signed.Claims
	return paymentAnswer{
		User: c.Payer, Recipient: c.Payee, Amount: hexAmount(g.Payable), Verified: s.Status != clearing.StatusPending,
		Finalized: s.Status == clearing.StatusSettled || s.Status == clearing.StatusRemunerate,
		Failed:    s.Status == clearing.StatusDisputed || s.Status == clearing.StatusCancelled, CreatedAt: g.At / 1000,
		Asset: c.Asset, Guarantee: guarantee.ID(c, g.Cycle.Start), Digest: g.Digest, CycleText: g.Cycle.String(), Status: s.Status,
	}
}

// positionAnswer is what a cycle came to for a participant.
type positionAnswer struct {
	Cycle      evm.Hash             `json:"cycle_id"`
	CycleText  string               `json:"cycle_id_text"`
	Asset      evm.Address          `json:"asset_address"`
	State      clearing.CycleStatus `json:"state"`
	Role       string               `json:"role"`
	Amount     money.Amount         `json:"amount"`
	Out        money.Amount         `json:"out"`
	In         money.Amount         `json:"in"`
	Settlement string               `json:"settlement"`
	Filled     money.Amount         `json:"filled"` // of a debt, by the operator's bond
	Statement  evm.Hash             `json:"statement"`
}

var roleNames = map[clearing.Role]string{clearing.Debtor: "NET_DEBTOR", clearing.Creditor: "NET_CREDITOR", clearing.Flat: "BALANCED"}

// settlementOf says what became of a position, by the reference's words.
func settlementOf(c clearing.Cycle, p clearing.Position) string {
	switch {
	case p.Flags.Paid:
		return "PAID"
	case p.Flags.Claimed:
		return "CLAIMED"
	case p.Flags.Defaulted:
		return "DEFAULTED"
	case p.Role == clearing.Flat, c.Status == clearing.Closed && p.Role == clearing.Debtor:
		return "FINALIZED"
	case p.Role == clearing.Debtor:
		return "UNPAID"
	}
	return "CLAIMABLE"
}

func positionOf(c clearing.Cycle, p clearing.Position) positionAnswer {
	return positionAnswer{
		Cycle: c.Ref.ID(), CycleText: c.Ref.String(), Asset: c.Ref.Asset, State: c.Status, Role: roleNames[p.Role], Amount: p.Amount, Out: p.Out, In: p.In,
		Settlement: settlementOf(c, p), Filled: p.Filled, Statement: p.Statement,
	}
}

// positions lists what a participant's cycles came to, the newest first. A page is of so many cycles that were looked at.
func (h *handler) positions(r *http.Request) (any, error) {
	participant, err := evm.ParseAddress(r.PathValue("participant"))
	if err != nil {
		return nil, x402.Errorf("malformed_request", "participant: %w", err)
	}
	asset, err := h.assetOrOnly(r)
	if err != nil {
		return nil, err
	}
	limit, err := limitOf(r, 100, listMax)
	if err != nil {
		return nil, err
	}
	before, err := startCursor(r)
	if err != nil {
		return nil, err
	}
	list, next, err := h.House.PositionsOf(r.Context(), asset, participant, before, limit)
	if err != nil {
		return nil, err
	}
	out := make([]positionAnswer, len(list))
	for i, p := range list {
		out[i] = positionOf(p.Cycle, p.Position)
	}
	a := map[string]any{"positions": out, "next_cursor": nil}
	if next > 0 {
		a["next_cursor"] = startCursorOf(next)
	}
	return a, nil
}

// statementAnswer is what a cycle came to for a participant. Fees are the operator's; it takes none yet. Opening and closing
// collateral are not kept by cycle, so they are null.
type statementAnswer struct {
	Cycle         evm.Hash        `json:"cycle_id"`
	CycleText     string          `json:"cycle_id_text"`
	Asset         evm.Address     `json:"asset_address"`
	Generation    uint64          `json:"generation"`
	Participant   evm.Address     `json:"participant"`
	Preliminary   bool            `json:"preliminary"` // the cycle is not netted
	Opening       *money.Amount   `json:"opening"`
	OutGuaranteed money.Amount    `json:"out_guaranteed"`
	InGuaranteed  money.Amount    `json:"in_guaranteed"`
	Out           money.Amount    `json:"out"` // captured
	In            money.Amount    `json:"in"`
	OutRefunded   money.Amount    `json:"out_refunded"` // lowered by notes
	InRefunded    money.Amount    `json:"in_refunded"`
	Net           *positionAnswer `json:"net"` // null until the cycle is netted
	Fees          money.Amount    `json:"fees"`
	Closing       *money.Amount   `json:"closing"`
	Entries       []entryAnswer   `json:"entries"`
	EntriesTotal  int             `json:"entries_total"`
	Root          evm.Hash        `json:"entries_root"`
	Hash          evm.Hash        `json:"statement"`
}

type entryAnswer struct {
	Direction    string       `json:"direction"` // out, in
	Digest       evm.Hash     `json:"digest"`
	Counterparty evm.Address  `json:"counterparty"`
	Amount       money.Amount `json:"amount"`
	Evidence     evm.Hash     `json:"evidence"`
}

// entriesMax is how many entries of a statement are answered at once.
const entriesMax = 10_000

// statement answers with JSON, or with CSV if that is asked for.
func (h *handler) statement(r *http.Request) (any, error) {
	participant, err := evm.ParseAddress(r.PathValue("participant"))
	if err != nil {
		return nil, x402.Errorf("malformed_request", "participant: %w", err)
	}
	c, err := h.namedCycle(r)
	if err != nil {
		return nil, err
	}
	if format := r.URL.Query().Get("format"); format == "csv" || format == "" && strings.HasPrefix(r.Header.Get("Accept"), "text/csv") {
		return page{status: http.StatusOK, kind: "text/csv; charset=utf-8", stream: func(w io.Writer) error { return h.statementCSV(r, w, c, participant) }}, nil
	} else if format != "" && format != "json" {
		return nil, x402.Errorf("malformed_request", "format %q: there are json and csv", clip(format))
	}
	limit, err := limitOf(r, entriesMax, entriesMax)
	if err != nil {
		return nil, err
	}
	skip := 0
	if text := r.URL.Query().Get("skip"); text != "" {
		if skip, err = strconv.Atoi(text); err != nil || skip < 0 {
			return nil, x402.Errorf("malformed_request", "skip %q: how many entries to leave out", clip(text))
		}
	}
	// All entries are read to know their root, however few are answered.
	if err := h.limits.statements.take(1, "statements"); err != nil {
		return nil, err
	}
	defer h.limits.statements.give(1)
	s, err := h.House.Statement(r.Context(), c.Ref.String(), participant)
	if err != nil {
		return nil, h.public(r, err, "position_unknown", "internal")
	}
	entries := s.Entries[min(skip, len(s.Entries)):]
	entries = entries[:min(limit, len(entries))]
	a := statementAnswer{
		Cycle: s.Cycle.Ref.ID(), CycleText: s.Cycle.Ref.String(), Asset: s.Cycle.Ref.Asset, Generation: s.Cycle.Generation,
		Participant: s.Participant, Preliminary: s.Cycle.Status == clearing.Open || s.Cycle.Status == clearing.Frozen,
		OutGuaranteed: s.OutGuaranteed, InGuaranteed: s.InGuaranteed, Out: s.Out, In: s.In,
		Entries: make([]entryAnswer, len(entries)), EntriesTotal: len(s.Entries), Root: s.Root, Hash: s.Hash,
	}
	a.OutRefunded, _ = s.OutGuaranteed.Sub(s.Out) // notes only lower
	a.InRefunded, _ = s.InGuaranteed.Sub(s.In)
	if s.Position != nil {
		net := positionOf(s.Cycle, *s.Position)
		a.Net = &net
	}
	for i, e := range entries {
		a.Entries[i] = entryAnswer{directions[e.Direction], e.Digest, e.Counterparty, e.Amount, e.Evidence}
	}
	return a, nil
}

var directions = map[clearing.Direction]string{clearing.Out: "out", clearing.In: "in"}

// statementCSV writes a line for each guarantee, what goes out before what comes in, the newest first.
func (h *handler) statementCSV(r *http.Request, w io.Writer, c clearing.Cycle, participant evm.Address) error {
	out := csv.NewWriter(w)
	_ = out.Write([]string{"cycle", "direction", "counterparty", "request_id", "digest", "guaranteed", "captured", "refunded", "status", "admitted_at"})
	for _, direction := range []clearing.Direction{clearing.Out, clearing.In} {
		q := clearing.Listing{Asset: c.Ref.Asset, InCycle: true, Start: c.Ref.Start, Payer: &participant, Limit: listMax}
		if direction == clearing.In {
			q.Payer, q.Payee = nil, &participant
		}
		for {
			rows, err := h.House.List(r.Context(), q)
			if err != nil {
				return err
			}
			for _, row := range rows {
				g, claims := row.Guarantee, row.Guarantee.Signed.Claims
				counterparty := claims.Payee
				if direction == clearing.In {
					counterparty = claims.Payer
				}
				refunded, _ := claims.Amount.Sub(g.Payable)
				_ = out.Write([]string{
					c.Ref.String(), directions[direction], counterparty.String(), claims.ReqID.String(), g.Digest.String(), claims.Amount.String(),
					g.Payable.String(), refunded.String(), string(row.Status), time.UnixMilli(g.At).UTC().Format("2006-01-02T15:04:05.000Z"),
				})
				q.Before = row.Place
			}
			if out.Flush(); out.Error() != nil || len(rows) < listMax {
				break
			}
		}
	}
	return out.Error()
}

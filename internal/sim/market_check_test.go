package sim

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/facilitator/desk"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/purchase"
	"github.com/farthing402/farthing/x402"
)

// buried returns the state after the newest block that has had n others on it.
func (c *Chain) buried(n uint64) *state {
	tallest := c.tallest()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.blocks[min(uint64(len(c.blocks))-1, tallest-min(tallest, n))].state
}

// due is what has to move on the chain for a purchase that is committed.
func due(p purchase.Purchase) money.Amount {
	if p.DrawsOnly() {
		return money.Amount{}
	}
	rest, ok := p.Charged.Sub(p.Credit)
	if !ok {
		return money.Amount{}
	}
	return rest
}

// answered takes an answer of work apart.
func answered(body string) (id, path string, ok bool) {
	rest, ok := strings.CutPrefix(body, "answer ")
	if !ok {
		return "", "", false
	}
	return strings.Cut(rest, " to ")
}

// looked is told of everything that leaves a gate: work that is earned leaves only when it is paid.
func (m *market) looked(path string, v visitor) {
	id, to, ok := answered(v.body)
	if !ok {
		return
	}
	m.checks++
	if to != path {
		m.fail(broken("asked for %s and got the answer to %s", path, to))
	}
	ctx := context.Background()
	p, there, err := m.book.FindID(ctx, id)
	switch {
	case err != nil || !there:
		m.fail(broken("purchase %s was answered and is not in the book (%v)", id, err))
		return
	case v.status == http.StatusAccepted:
		return
	case p.State != purchase.Committed:
		m.fail(broken("purchase %s is %s, and its answer has left", id, p.State))
		return
	}
	if m.deep() {
		return
	}
	used := m.chain.buried(depth).used
	if p.DrawsOnly() {
		bought, there, err := m.book.FindID(ctx, p.Bundle)
		if err != nil || !there {
			m.fail(broken("purchase %s draws from bundle %s, which nobody bought (%v)", id, p.Bundle, err))
			return
		}
		if b, there, err := m.book.FindBundle(ctx, p.Bundle); err != nil || !there || b.State != purchase.Open {
			m.fail(broken("purchase %s draws from bundle %s, which is %s", id, p.Bundle, b.State))
		}
		p = bought
		p.Charged = p.Cap // it may be running still
	}
	if want := due(p); !want.IsZero() && used[p.Payment].amount != want {
		m.fail(broken("the answer of purchase %s has left, and of %s due for it %s has moved", id, want, used[p.Payment].amount))
	}
}

// check looks at what must hold after every step.
func (m *market) check() error {
	if err := m.chain.Check(); err != nil {
		return broken("chain: %v", err)
	}
	return nil
}

// roundsMax is how many rounds everything has to come to an end in.
const roundsMax = 150

// quiesce lets everything come to an end without further faults, and then looks at what everybody has.
func (m *market) quiesce() error {
	m.quiet = true
	m.settler.armed = 0
	for _, s := range m.shops {
		s.armed = 0
	}
	for i := 0; ; i++ {
		if err := m.restart(); err != nil {
			return err
		}
		m.tick(2)
		if err := m.blockNow(); err != nil && i > 10 {
			return err
		}
		if _, err := m.end(); err != nil {
			return err
		}
		for range 2 {
			said, err := m.tidy()
			m.log("tidy: %s", said)
			if err != nil {
				return err
			}
		}
		open, err := m.unfinished()
		if err == nil && open != "" && i%5 == 0 {
			err = m.comeBack()
		}
		if err == nil {
			err = m.broke
		}
		if err == nil && open != "" && i > roundsMax {
			err = broken("%s does not come to an end", open)
		}
		if err != nil {
			return err
		}
		if open == "" && i > 2*depth {
			return m.reckon()
		}
	}
}

// unfinished says what has not come to an end.
func (m *market) unfinished() (string, error) {
	ctx := context.Background()
	for _, o := range m.orders {
		p, ok, err := m.book.Find(ctx, o.payment)
		if err != nil {
			return "", err
		}
		if ok && !p.State.Final() {
			return fmt.Sprintf("purchase %s (%s, %s, settling %v)", p.ID, p.State, p.Route, p.Settling), nil
		}
	}
	refunds, err := m.book.OpenRefunds(ctx)
	if err != nil {
		return "", err
	}
	if len(refunds) > 0 {
		return "refund of " + refunds[0].Purchase, nil
	}
	open, err := m.desks.Open(ctx, m.chain.deployment.ChainID)
	if len(open) > 0 {
		return fmt.Sprintf("settlement %s, which is %s", open[0].ID.Short(), open[0].State), err
	}
	return "", err
}

// comeBack has buyers show the payments that they have no answer to.
func (m *market) comeBack() error {
	for _, o := range m.orders {
		p, ok, err := m.book.Find(context.Background(), o.payment)
		if err != nil {
			return err
		}
		if !ok || p.State.Final() {
			continue
		}
		o.path = strings.TrimPrefix(p.URL, shopURL) // whoever was first has said what a stock client's payment is for
		said, err := m.show(o, m.shop())
		m.log("come back: %s", said)
		if err != nil {
			return err
		}
	}
	return nil
}

// reckon holds the books of everybody against the chain.
func (m *market) reckon() error {
	ctx := context.Background()
	if err := m.reckonHousehold(); err != nil {
		return err
	}
	state := m.chain.at(evm.Hash{})
	payments := make(map[evm.Hash]*order)
	drawn := make(map[string]uint64)                // by bundle
	returned := make(map[ownerAsset][]money.Amount) // refunds by transfer that are done
	credit := make(map[ownerAsset]money.Amount)
	spent := make(map[ownerAsset]money.Amount) // of it
	for _, o := range m.orders {
		payments[o.payment] = o
		p, ok, err := m.book.Find(ctx, o.payment)
		if err != nil {
			return err
		}
		if err := m.reckonOrder(o, p, ok, state); err != nil {
			return err
		}
		if !ok {
			continue
		}
		who := ownerAsset{p.Payer, p.Asset}
		r, given, err := m.book.FindRefund(ctx, p.ID)
		if err != nil {
			return err
		}
		drawn[p.Bundle] += p.Draws
		spent[who], _ = spent[who].Add(p.Credit)
		if !given {
			continue
		}
		m.log("refund of %s: %s, %s, %s (%s)", p.ID, r.Kind, r.State, r.Amount, r.Reason)
		switch r.Kind {
		case purchase.ByCalls:
			drawn[p.Bundle] -= r.Calls
		case purchase.ByCredit:
			credit[who], _ = credit[who].Add(r.Amount)
		case purchase.ByTransfer:
			if r.State == purchase.Done {
				returned[who] = append(returned[who], r.Amount)
			}
		}
		if p.Buys > 0 {
			drawn[p.Bundle] += r.Calls
		}
	}
	for id, mv := range state.used {
		if payments[id] == nil || mv.to != m.seller.Address() {
			return broken("authorization %s was carried out, and is nobody's order", id.Short())
		}
	}
	for i, key := range m.buyers {
		bundles, err := m.book.Bundles(ctx, key.Address(), m.seller.Address())
		if err != nil {
			return err
		}
		for _, b := range bundles {
			if b.Remaining+drawn[b.ID] != b.Total {
				return broken("of bundle %s %d calls are left and %d were drawn or given back, it had %d", b.ID, b.Remaining, drawn[b.ID], b.Total)
			}
			if b.State != purchase.Open {
				return broken("bundle %s is %s, and nothing is left to do", b.ID, b.State)
			}
		}
		for _, token := range m.on.Tokens {
			who := ownerAsset{key.Address(), token.Address}
			has, err := m.book.Credit(ctx, who.owner, m.seller.Address(), m.on.CAIP2(), who.asset)
			if err != nil {
				return err
			}
			if sum, _ := has.Add(spent[who]); sum != credit[who] {
				return broken("buyer %d was given %s as credit, has spent %s and has %s", i, credit[who], spent[who], has)
			}
			if m.deep() {
				continue // nobody sends again what a reorganisation took back after it was final
			}
			if got := m.sentBack(who); fmt.Sprint(sorted(got)) != fmt.Sprint(sorted(returned[who])) {
				return broken("buyer %d was sent back %v, refunds come to %v", i, got, returned[who])
			}
		}
	}
	return nil
}

// sorted orders amounts, so that lists of them can be compared.
func sorted(list []money.Amount) (texts []string) {
	for _, a := range list {
		word := a.Word()
		texts = append(texts, fmt.Sprintf("%x", word[24:]))
	}
	for i := range texts {
		for k := i; k > 0 && texts[k] < texts[k-1]; k-- {
			texts[k], texts[k-1] = texts[k-1], texts[k]
		}
	}
	return texts
}

// sentBack returns what the seller has sent to a buyer.
func (m *market) sentBack(who ownerAsset) (list []money.Amount) {
	m.chain.mu.Lock()
	defer m.chain.mu.Unlock()
	for _, b := range m.chain.blocks {
		for _, l := range b.logs {
			if l.Address == who.asset && l.Topics[0] == topicTransfer && l.Topics[1] == evm.Hash(m.seller.Address().Word()) && l.Topics[2] == evm.Hash(who.owner.Word()) {
				amount, _ := money.AmountFromBytes(l.Data)
				list = append(list, amount)
			}
		}
	}
	return list
}

// reckonOrder holds one purchase against the chain, and has its buyer ask for the answer once more.
func (m *market) reckonOrder(o *order, p purchase.Purchase, ok bool, s *state) error {
	mv, carried := s.used[o.payment]
	if ok && p.ID != o.id && !o.draw {
		return broken("payment %s bought %s, it is for %s", o.payment.Short(), p.ID, o.id)
	}
	if err := m.reckonDesk(o, mv, carried); err != nil {
		return err
	}
	switch {
	case !ok && carried:
		return broken("payment %s for %s has moved %s, and bought nothing", o.payment.Short(), o.path, mv.amount)
	case !ok:
		return nil
	case p.State == purchase.Void && carried && !m.deep():
		return broken("purchase %s is void (%s), and %s have moved for it", p.ID, p.Outcome, mv.amount)
	case p.State == purchase.Void:
		return nil
	case p.State != purchase.Committed:
		return broken("purchase %s is %s", p.ID, p.State)
	}
	want := due(p)
	switch {
	case carried && (mv.amount != want || want.IsZero()):
		return broken("purchase %s is charged %s, and %s have moved", p.ID, want, mv.amount)
	case !carried && !want.IsZero() && !m.deep():
		return broken("purchase %s is charged %s, and nothing has moved", p.ID, want)
	case carried && p.Transaction != mv.tx && !m.deep():
		return broken("purchase %s was paid in %s, its book says %s", p.ID, mv.tx.Short(), p.Transaction.Short())
	}
	v := m.ask(m.shop(), strings.TrimPrefix(p.URL, shopURL), o.name, o.value)
	if m.broke != nil {
		return m.broke
	}
	var slip x402.SettleResponse
	if err := x402.DecodeHeader(v.header.Get(x402.HeaderResponse), &slip); err != nil || !slip.Success || slip.Purchase != p.ID {
		return broken("purchase %s is charged, and who asks again gets %d %s and receipt %+v (%v)", p.ID, v.status, v.code(), slip, err)
	}
	_, _, got := answered(v.body)
	switch {
	case got && strings.HasPrefix(o.path, "/pack") && p.Draws != 1:
		return broken("purchase %s is answered, and has drawn %d calls", p.ID, p.Draws)
	case got || p.Outcome != "" || v.body == "waived":
		return nil
	}
	return broken("purchase %s is charged %s for nothing: %d %s", p.ID, p.Charged, v.status, v.body)
}

// reckonDesk holds the gas desk's record of a payment against the chain.
func (m *market) reckonDesk(o *order, mv move, carried bool) error {
	s, found, err := m.desks.Find(context.Background(), o.payment)
	switch {
	case err != nil:
		return err
	case !found:
		if carried {
			return broken("payment %s has moved, and nobody asked the facilitator for it", o.payment.Short())
		}
	case s.State == desk.Settled && (!carried || s.Tx != mv.tx || s.Amount != mv.amount):
		return broken("settlement %s is settled with %s in %s, the chain has %v %s in %s", s.ID.Short(), s.Amount, s.Tx.Short(), carried, mv.amount, mv.tx.Short())
	case s.State == desk.Failed && carried:
		return broken("settlement %s has failed (%s), the chain has it in %s", s.ID.Short(), s.Code, mv.tx.Short())
	}
	return nil
}

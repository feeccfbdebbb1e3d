package payer

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/farthing402/farthing/exact"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/network"
	"github.com/farthing402/farthing/x402"
)

// noOption explains that nothing in a 402 can be paid.
func (l *look) noOption(n Need, t terms, not []string) Need {
	n.Code = "no_common_option"
	taken, nets := l.takes(t)
	held := l.holdings()
	switch {
	case l.elsewhere == len(not) && len(held) > 0 && len(taken) > 0 && !overlap(taken, held):
		n.Reason = fmt.Sprintf("seller takes %s; you hold %s. Nothing was signed", either(taken), either(held))
		n.Hint = fmt.Sprintf("fund %s on %s, or ask the seller to accept %s", l.Key.Address().Short(), nets[0], onWhich(held[0]))
	case len(not) == 1:
		n.Reason = "the seller's one offer " + not[0] + ". Nothing was signed"
	default:
		n.Reason = "none of the seller's offers can be paid: one " + strings.Join(not, "; one ") + ". Nothing was signed"
	}
	n.Ways = ways(n, t, nil, Way{})
	return n
}

// takes names the dollars that a 402 asks for and where, "USDC on arbitrum", and the networks.
func (l *look) takes(t terms) (taken, networks []string) {
	for _, r := range t.Accepts {
		chain, err := l.registry.Lookup(r.Network)
		if err != nil {
			continue
		}
		if token, err := chain.Token(r.Asset); err == nil && token.Dollar {
			if name := token.Symbol + " on " + chain.Name; !slices.Contains(taken, name) {
				taken, networks = append(taken, name), append(networks, chain.Name)
			}
		}
	}
	return taken, networks
}

func overlap(a, b []string) bool {
	return slices.ContainsFunc(a, func(s string) bool { return slices.Contains(b, s) })
}

func either(names []string) string { return strings.Join(names, " or ") }

func onWhich(held string) string { _, network, _ := strings.Cut(held, " on "); return network }

// shortNeed explains that the account cannot pay an offer.
func (l *look) shortNeed(n Need, o option, s *shortage, t terms) Need {
	n.Code = s.code
	account, where := l.Key.Address().Short(), o.token.Symbol+" on "+o.chain.Name
	if !s.known {
		n.Reason = fmt.Sprintf("asks %s through Permit2, which may not take %s from %s. Nothing was signed", n.Asked, where, account)
		n.Ways = ways(n, t, []option{o}, Way{Kind: Deposit, Network: o.Network, Text: fmt.Sprintf("let %s take %s of %s once (approve)", exact.Permit2Address, where, account)})
		return n
	}
	if have, fits := inDollars(s.have, o.token.Decimals); fits {
		n.Available = dollars(have)
	}
	missing := less(o.amount, s.have)
	n.Reason = fmt.Sprintf("asks %s in %s, where %s holds %s. Nothing was signed", n.Asked, where, account, money.Format(s.have, o.token.Decimals, "$"))
	if held := l.holdings(); s.have.IsZero() && len(held) > 0 {
		n.Code = "no_common_option"
		n.Reason = fmt.Sprintf("seller takes %s; you hold %s. Nothing was signed", where, either(held))
	}
	fund := Way{Kind: Deposit, Network: o.Network, Text: fmt.Sprintf("send %s on %s to %s", money.Format(missing, o.token.Decimals, o.token.Symbol), o.chain.Name, l.Key.Address())}
	if m, fits := inDollars(missing, o.token.Decimals); fits {
		fund.Amount = dollars(m)
	}
	n.Ways = ways(n, t, []option{o}, fund)
	return n
}

// overNeed explains that the cheapest offer passes the budget.
func overNeed(n Need, over *overBudget, t terms, list []option) Need {
	n.Code, n.Available = "budget_exceeded", dollars(over.available)
	n.Reason = fmt.Sprintf("asks %s, your limit %s is %s. Nothing was signed", n.Asked, over.limit, n.Available)
	text := fmt.Sprintf("--max '%s'", n.Asked)
	if over.limit != perCall {
		n.Reason = fmt.Sprintf("asks %s, and %s is left of your budget %s. Nothing was signed", n.Asked, n.Available, over.limit)
		text = "a larger budget " + over.limit
	}
	n.Ways = ways(n, t, list[:1], Way{Kind: Budgeting, Text: text, Amount: n.Asked})
	return n
}

// refusedNeed explains why a seller did not take a payment.
func (p *Payer) refusedNeed(r row, refusal *x402.Error, t terms) Need {
	n := Need{
		Code: refusal.Code, Reason: refusal.Error(), Hint: refusal.Hint, Method: r.Method, URL: r.URL, Payee: r.Payee,
		Asked: dollars(r.promised()),
	}
	amount := func(name string) (money.Amount, bool) {
		a, err := money.ParseAmount(refusal.Details[name])
		return a, err == nil
	}
	tried := []option{{Requirements: x402.Requirements{Scheme: r.scheme(), Network: r.Network, Asset: r.Asset.String()}}}
	if n.Code != "collateral_insufficient" {
		last := Way{}
		if n.Code == "permit2_allowance_required" && p.Wallet == nil {
			// With the chain in sight the allowance is known before signing, and given in the payment where the seller takes that.
			n.Hint = "--rpc-url URL: a node shows what your account allows, and lets you allow it in the payment"
		}
		if strings.Contains(n.Code, "insufficient") && r.Transfer != "" {
			last = Way{Kind: Deposit, Network: r.Network, Text: fmt.Sprintf("send %s on %s to %s", r.Symbol, networkName(r.Network), p.Key.Address())}
		}
		n.Ways = ways(n, t, tried, last)
		return n
	}
	var deposit Way
	available, ok := amount("available")
	if scaled, fits := inDollars(available, r.Decimals); ok && fits {
		n.Available = dollars(scaled)
		n.Reason = fmt.Sprintf("guarantee of %s needs %s free, you have %s", n.Asked, n.Asked, n.Available)
		deposited, known := amount("deposited")
		inUse, alsoKnown := amount("inUse")
		if known && alsoKnown {
			n.Reason += fmt.Sprintf(" (%s deposited, %s in use)", money.Format(deposited, r.Decimals, "$"), money.Format(inUse, r.Decimals, "$"))
		}
		n.Reason += ". Not charged"
		missing := less(r.Amount, available)
		if m, fits := inDollars(missing, r.Decimals); fits && !missing.IsZero() {
			deposit = Way{Kind: Deposit, Amount: dollars(m), Network: r.Network, Text: fmt.Sprintf("farthing deposit '%s'", dollars(m))}
		}
	}
	if deposit.Kind == "" {
		deposit = Way{Kind: Deposit, Network: r.Network, Text: "farthing deposit more collateral"}
	}
	n.Hint = "" // the ways on are more precise than the table's remedy
	n.Ways = ways(n, t, tried, deposit)
	return n
}

// ways lists the ways on in their order: another way to pay, the alternative, a deposit, a larger budget. tried are offers
// that were looked at already.
func ways(n Need, t terms, tried []option, last Way) []Way {
	var list []Way
	for _, r := range t.Accepts {
		if isTried(r, tried) {
			continue
		}
		called, price := clip(r.Scheme), money.Amount{}
		if known, ok := wayOf(r.Scheme); ok {
			called = known.name()
		}
		w := Way{Kind: OtherWay, Scheme: r.Scheme, Network: r.Network, Text: fmt.Sprintf("pay by %s on %s", called, networkName(r.Network))}
		if chain, err := network.Lookup(r.Network); err == nil {
			if token, err := chain.Token(r.Asset); err == nil && token.Dollar {
				if a, err := money.ParseAmount(r.Amount); err == nil {
					if scaled, fits := inDollars(a, token.Decimals); fits {
						price, w.Amount = scaled, dollars(scaled)
						w.Text += ", " + w.Amount.String()
					}
				}
			}
		}
		if left, err := n.Available.Atomic(fine); n.Code == "budget_exceeded" && err == nil && left.Less(price) {
			continue // it is over the budget too
		}
		list = append(list, w)
	}
	if alt := t.said.Alternative; alt != "" {
		if u, err := alternative(n.URL, alt); err == nil {
			list = append(list, Way{Kind: Alternative, Text: "the seller's cheaper " + clip(alt), URL: u})
		}
	}
	if last.Kind != "" {
		list = append(list, last)
	}
	return list
}

// isTried reports whether an offer is one of those that failed.
func isTried(r x402.Requirements, tried []option) bool {
	for _, o := range tried {
		if o.Scheme == r.Scheme && o.Network == r.Network && strings.EqualFold(o.Asset, r.Asset) {
			return true
		}
	}
	return false
}

// alternative resolves the seller's other route, which has to be its own.
func alternative(asked, other string) (string, error) {
	base, err := url.Parse(asked)
	if err != nil {
		return "", err
	}
	u, err := base.Parse(other)
	if err != nil {
		return "", err
	}
	if u.Host != base.Host || u.Scheme != base.Scheme {
		return "", fmt.Errorf("alternative on another host")
	}
	return u.String(), nil
}

func networkName(caip2 string) string {
	if c, err := network.Lookup(caip2); err == nil {
		return c.Name
	}
	return clip(caip2)
}

func lowerHost(u *url.URL) string { return strings.ToLower(u.Host) }

func withoutFragment(u *url.URL) string {
	c := *u
	c.Fragment, c.RawFragment = "", ""
	return c.String()
}

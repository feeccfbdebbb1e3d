package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/paywall"
)

// gateFile is gate.yaml. Keys are never written in it.
type gateFile struct {
	Upstream      string
	PayTo         string
	Network       string
	Accept        []located
	ClearingHouse string
	Facilitator   string
	RPCURL        string
	SignOffers    string
	LateRefunds   bool
	Body          located
	Costs         costing
	Routes        []gateRoute
}

// gateRoute is one line under routes. Text that carries a price keeps its place in the file, so that a fault can be
// shown where it is.
type gateRoute struct {
	Pattern     located
	Free        bool
	Price       located
	Minimum     located
	UpTo        located
	Count       located
	Charge      located
	Refund      located
	Alternative located
	Description located
	Bundle      located
	Valid       located
	Settle      located
	Job         located
	Body        located
	Listed      bool
	Accept      []located
	Stages      []located
	Validation  *guarantee.Policy
}

// located is a scalar and where it stands, 1-based.
type located struct {
	Text         string
	Line, Column int
}

// find returns where in the file a fault is that the gate found: a price or sum, or else the route that it names.
func (g gateFile) find(fault error) located {
	var bad *money.PriceError
	priced := errors.As(fault, &bad)
	for _, way := range g.Accept {
		if strings.Contains(fault.Error(), strconv.Quote(way.Text)) {
			return way
		}
	}
	for _, r := range g.Routes {
		if !strings.HasPrefix(fault.Error(), r.Pattern.Text+": ") {
			continue
		}
		for _, l := range []located{r.Price, r.Minimum, r.UpTo} {
			if priced && l.Text == bad.Text {
				l.Column += bad.Column - 1
				return l
			}
		}
		return r.Pattern
	}
	return located{Line: 1, Column: 1}
}

var environment = regexp.MustCompile(`\$\{([A-Za-z_][A-Za-z0-9_]*)\}`)

// parseGate reads gate.yaml strictly: unknown and repeated keys are refused with the nearest known one, ${NAME} is taken
// from the environment and must be set, and every fault carries file, line and column. All faults are reported at once.
func parseGate(name string, text []byte, env func(string) (string, bool)) (gateFile, error) {
	p := gateParser{name: name, env: env}
	var doc yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(text))
	if err := dec.Decode(&doc); err != nil && !errors.Is(err, io.EOF) {
		return gateFile{}, fail("config_invalid", "%s: %s", name, strings.TrimPrefix(err.Error(), "yaml: ")).hint("nothing was changed")
	}
	if err := dec.Decode(new(yaml.Node)); err == nil {
		return gateFile{}, fail("config_invalid", "%s: more than one document", name)
	}
	var g gateFile
	if len(doc.Content) == 1 {
		p.fields(doc.Content[0], map[string]func(*yaml.Node){
			"upstream":       func(n *yaml.Node) { g.Upstream = p.text(n).Text },
			"pay_to":         func(n *yaml.Node) { g.PayTo = p.text(n).Text },
			"network":        func(n *yaml.Node) { g.Network = p.text(n).Text },
			"clearing_house": func(n *yaml.Node) { g.ClearingHouse = p.text(n).Text },
			"facilitator":    func(n *yaml.Node) { g.Facilitator = p.text(n).Text },
			"rpc_url":        func(n *yaml.Node) { g.RPCURL = p.text(n).Text },
			"accept":         func(n *yaml.Node) { g.Accept = p.ways(n) },
			"sign_offers":    func(n *yaml.Node) { g.SignOffers = p.text(n).Text },
			"late_refunds":   func(n *yaml.Node) { g.LateRefunds = p.yes(n) },
			"body":           func(n *yaml.Node) { g.Body = p.body(n) },
			"costs":          func(n *yaml.Node) { g.Costs = p.costs(n) },
			"routes":         func(n *yaml.Node) { g.Routes = p.routes(n) },
		})
	}
	if len(p.faults) == 0 && len(g.Routes) == 0 {
		p.fault(located{Line: 1, Column: 1}, "no routes").hint("add `routes:` with a line such as `GET /: $0.0005`, or run farthing init")
	}
	return g, p.err()
}

type gateParser struct {
	name   string
	env    func(string) (string, bool)
	faults []*fault
}

func (p *gateParser) fault(at located, format string, args ...any) *fault {
	f := fail("config_invalid", "%s:%d:%d: %s", p.name, at.Line, at.Column, fmt.Sprintf(format, args...))
	p.faults = append(p.faults, f)
	return f
}

// err joins the faults: the first one's code and hint, all messages.
func (p *gateParser) err() error {
	if len(p.faults) == 0 {
		return nil
	}
	joined := *p.faults[0]
	for _, f := range p.faults[1:] {
		joined.x.Message += "\n       " + f.x.Message
	}
	return &joined
}

func at(n *yaml.Node) located { return located{Line: n.Line, Column: n.Column} }

// fields calls the function of each key of a mapping.
func (p *gateParser) fields(n *yaml.Node, known map[string]func(*yaml.Node)) {
	if n.Kind != yaml.MappingNode {
		p.fault(at(n), "want `key: value` lines here")
		return
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		take, ok := known[key.Value]
		switch {
		case !ok:
			f := p.fault(at(key), "unknown key %q", key.Value)
			names := make([]string, 0, len(known))
			for k := range known {
				names = append(names, k)
			}
			sort.Strings(names)
			f.hint("known here: %s", strings.Join(names, ", "))
		case seen[key.Value]:
			p.fault(at(key), "%s is there twice", key.Value)
		default:
			seen[key.Value] = true
			take(value)
		}
	}
}

// yes reads true or false.
func (p *gateParser) yes(n *yaml.Node) bool {
	l := p.text(n)
	if l.Text != "true" && l.Text != "false" {
		p.fault(l, "want true or false")
	}
	return l.Text == "true"
}

// body reads for whom the JSON body of a 402 lists ways to pay.
func (p *gateParser) body(n *yaml.Node) located {
	l := p.text(n)
	if l.Text != "x402" && l.Text != "4mica" {
		p.fault(l, "body: no clients are called %q", l.Text).hint("x402, or 4mica to list guarantees for clients of 4Mica, which leaves out x402's of version 1")
	}
	return l
}

// validation reads on whose answer guarantees depend.
func (p *gateParser) validation(n *yaml.Node) *guarantee.Policy {
	v := &guarantee.Policy{}
	member := func(read func(text string) error) func(*yaml.Node) {
		return func(n *yaml.Node) {
			if l := p.text(n); l.Text != "" {
				if err := read(l.Text); err != nil {
					p.fault(l, "validation: %v", err)
				}
			}
		}
	}
	p.fields(n, map[string]func(*yaml.Node){
		"registry":  member(func(text string) (err error) { v.Registry, err = evm.ParseAddress(text); return err }),
		"validator": member(func(text string) (err error) { v.Validator, err = evm.ParseAddress(text); return err }),
		"job":       member(func(text string) (err error) { v.JobHash, err = evm.ParseHash(text); return err }),
		"tag":       member(func(text string) error { v.Tag = text; return nil }),
		"agent": member(func(text string) error {
			id, err := money.ParseAmount(text)
			v.AgentID = id.Word()
			return err
		}),
		"score": member(func(text string) error {
			score, err := strconv.ParseUint(text, 10, 8)
			if err != nil || score < 1 || score > 100 {
				return fmt.Errorf("score %q is not between 1 and 100", text)
			}
			v.MinScore = uint8(score)
			return nil
		}),
	})
	return v
}

// texts reads a list of scalars.
func (p *gateParser) texts(n *yaml.Node) (all []located) {
	for _, item := range p.list(n) {
		all = append(all, p.text(item))
	}
	return all
}

// ways reads a list of ways to pay.
func (p *gateParser) ways(n *yaml.Node) []located {
	all := p.texts(n)
	for _, l := range all {
		e, err := paywall.ParseEntry(l.Text)
		if err != nil || !slices.Contains([]string{"guarantee", "exact", "upto", "exact-legacy"}, e.Way) {
			p.fault(l, "accept: %q is no way to pay", l.Text).hint("such as guarantee, exact, upto, or exact on arbitrum in USDC")
		}
	}
	return all
}

func (p *gateParser) list(n *yaml.Node) []*yaml.Node {
	if n.Kind != yaml.SequenceNode {
		p.fault(at(n), "want a list, such as [guarantee]")
		return nil
	}
	return n.Content
}

// text reads a scalar and fills in ${NAME} from the environment.
func (p *gateParser) text(n *yaml.Node) located {
	l := located{Text: n.Value, Line: n.Line, Column: n.Column}
	if n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle) != 0 {
		l.Column++ // faults point into the text
	}
	if n.Kind != yaml.ScalarNode {
		p.fault(l, "want a single value here")
		return l
	}
	l.Text = environment.ReplaceAllStringFunc(l.Text, func(ref string) string {
		name := environment.FindStringSubmatch(ref)[1]
		value, ok := p.env(name)
		if !ok {
			p.fault(l, "%s is not set in the environment", ref).hint("export %s=…", name)
		}
		return value
	})
	return l
}

func (p *gateParser) routes(n *yaml.Node) []gateRoute {
	if n.Kind != yaml.MappingNode {
		p.fault(at(n), "want lines such as `GET /quote/{symbol}: $0.0005`")
		return nil
	}
	var routes []gateRoute
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		r := gateRoute{Pattern: located{key.Value, key.Line, key.Column}}
		if seen[key.Value] {
			p.fault(r.Pattern, "%s is there twice", key.Value)
		}
		seen[key.Value] = true
		if value.Kind == yaml.MappingNode {
			p.fields(value, map[string]func(*yaml.Node){
				"price":       func(n *yaml.Node) { r.Price = p.text(n) },
				"minimum":     func(n *yaml.Node) { r.Minimum = p.text(n) },
				"up_to":       func(n *yaml.Node) { r.UpTo = p.text(n) },
				"count":       func(n *yaml.Node) { r.Count = p.text(n) },
				"charge":      func(n *yaml.Node) { r.Charge = p.text(n) },
				"refund":      func(n *yaml.Node) { r.Refund = p.text(n) },
				"alternative": func(n *yaml.Node) { r.Alternative = p.text(n) },
				"description": func(n *yaml.Node) { r.Description = p.text(n) },
				"bundle":      func(n *yaml.Node) { r.Bundle = p.text(n) },
				"valid":       func(n *yaml.Node) { r.Valid = p.text(n) },
				"settle":      func(n *yaml.Node) { r.Settle = p.text(n) },
				"job":         func(n *yaml.Node) { r.Job = p.text(n) },
				"body":        func(n *yaml.Node) { r.Body = p.body(n) },
				"listed":      func(n *yaml.Node) { r.Listed = p.yes(n) },
				"accept":      func(n *yaml.Node) { r.Accept = p.ways(n) },
				"stages":      func(n *yaml.Node) { r.Stages = p.texts(n) },
				"validation":  func(n *yaml.Node) { r.Validation = p.validation(n) },
			})
		} else {
			r.Price = p.text(value)
		}
		if r.Free = r.Price.Text == "free"; !r.Free {
			p.price(r.Price)
		}
		for _, sum := range []located{r.Minimum, r.UpTo} {
			if sum.Text != "" {
				p.price(sum)
			}
		}
		routes = append(routes, r)
	}
	return routes
}

// price points at the faulty character of a price.
func (p *gateParser) price(l located) {
	if l.Text == "" {
		p.fault(l, "route has no price").hint("write $0.0005, or free")
		return
	}
	_, err := money.ParsePrice(l.Text)
	var bad *money.PriceError
	if errors.As(err, &bad) {
		l.Column += bad.Column - 1
		f := fail("price_invalid", "%s:%d:%d: %q %s", p.name, l.Line, l.Column, bad.Text, bad.Problem).hint("%s", bad.Hint)
		p.faults = append(p.faults, f)
	}
}

// span reads how long something lasts: 24h, 90s, 30 s.
func (l located) span() (time.Duration, error) {
	d, err := time.ParseDuration(strings.ReplaceAll(l.Text, " ", ""))
	if err != nil {
		return 0, fmt.Errorf("%q is no duration, such as 24h or 30 s", l.Text)
	}
	return d, nil
}

// plain returns the texts alone.
func plain(all []located) (texts []string) {
	for _, l := range all {
		texts = append(texts, l.Text)
	}
	return texts
}

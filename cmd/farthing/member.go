package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/farthing402/farthing/api/client"
	"github.com/farthing402/farthing/evm"
)

type memberCmd struct {
	Add     memberAddCmd     `cmd:"" help:"Admit somebody, or change what is said of them."`
	List    memberListCmd    `cmd:"" help:"Show the members, and who is suspended."`
	Suspend memberSuspendCmd `cmd:"" help:"Keep somebody from promising and being promised anything, at once; --end ends it."`
	Remove  memberRemoveCmd  `cmd:"" help:"End a membership."`
}

// Help says who may.
func (memberCmd) Help() string {
	return "Signs in at the clearing house as its operator (--key), or as somebody the operator has given the role admin. " +
		"With serve --members-only the clearing house serves members and nobody else; without it, membership is a name and a limit."
}

type memberAddCmd struct {
	venueFlags
	Name    string `arg:"" help:"What they are called."`
	Address string `arg:"" help:"Their account." placeholder:"0x…"`
	Limit   string `help:"The most that they may promise in one cycle, such as '$1000'; none: no limit." placeholder:"AMOUNT"`
	Contact string `help:"How to reach them."`
	Role    string `enum:"user,facilitator,admin," default:"" help:"What their login may do: user, facilitator (reads what it needs to check payments), admin."`
}

type memberListCmd struct{ venueFlags }

type memberSuspendCmd struct {
	venueFlags
	Address string `arg:"" help:"Whose account." placeholder:"0x…"`
	End     bool   `help:"End the suspension."`
}

type memberRemoveCmd struct {
	venueFlags
	Address string `arg:"" help:"Whose account." placeholder:"0x…"`
}

// admin connects to the clearing house as its operator, and reads the address that a verb is about.
func (r *run) admin(f venueFlags, about string) (v *venue, address evm.Address, err error) {
	if about != "" {
		if address, err = evm.ParseAddress(about); err != nil || address.IsZero() {
			return nil, address, misuse("%q is no address", about)
		}
	}
	if v, err = r.venue(f, nil); err != nil {
		return nil, address, err
	}
	key, err := r.operatorKey(v.Chain)
	if err == nil {
		v.House, err = client.New(v.House.URL(), client.WithSigner(key))
	}
	if err != nil {
		v.Close()
	}
	return v, address, err
}

func (c *memberAddCmd) Run(r *run) error {
	v, address, err := r.admin(c.venueFlags, c.Address)
	if err != nil {
		return err
	}
	defer v.Close()
	is, change := true, client.MemberChange{Name: &c.Name}
	change.Member = &is
	if c.Contact != "" {
		change.Contact = &c.Contact
	}
	if c.Role != "" {
		change.Role = &c.Role
	}
	switch c.Limit {
	case "":
	case "none":
		change.Limit = json.RawMessage("null")
	default:
		limit, err := v.parse(c.Limit)
		if err != nil {
			return err
		}
		if change.Limit, err = json.Marshal(limit); err != nil {
			return err
		}
	}
	return r.putMember(v, address, change)
}

// putMember changes what is said of an address, and shows what is said now.
func (r *run) putMember(v *venue, address evm.Address, change client.MemberChange) error {
	if r.cli.DryRun {
		return r.emit(map[string]any{"address": address, "change": change}, "would change what is said of %s\n", address)
	}
	m, err := v.House.PutMember(r.ctx, address, change)
	if err != nil {
		return err
	}
	return r.emit(m, "%s  %s\n", m.Address, memberText(v, m))
}

func (c *memberListCmd) Run(r *run) error {
	v, _, err := r.admin(c.venueFlags, "")
	if err != nil {
		return err
	}
	defer v.Close()
	list, err := v.House.Members(r.ctx)
	if err != nil {
		return err
	}
	if !r.Terminal || r.cli.JSON {
		for _, m := range list {
			if err := r.emit(m, ""); err != nil {
				return err
			}
		}
		return nil
	}
	w := tabwriter.NewWriter(r.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "address\twhat is said\tsince")
	for _, m := range list {
		fmt.Fprintf(w, "%s\t%s\t%s\n", m.Address, memberText(v, m), time.Unix(m.UpdatedAt, 0).UTC().Format("2006-01-02 15:04"))
	}
	return w.Flush()
}

// memberText says what an operator has said of somebody.
func memberText(v *venue, m client.Member) string {
	var parts []string
	if m.Name != "" {
		parts = append(parts, m.Name)
	}
	if m.Member {
		parts = append(parts, "member")
	}
	if m.Role != "user" {
		parts = append(parts, m.Role)
	}
	if m.Status != "active" {
		parts = append(parts, m.Status)
	}
	if m.Limit != nil {
		parts = append(parts, "at most "+v.format(*m.Limit)+" a cycle")
	}
	if m.Contact != "" {
		parts = append(parts, m.Contact)
	}
	if len(parts) == 0 {
		return "nothing"
	}
	return strings.Join(parts, ", ")
}

func (c *memberSuspendCmd) Run(r *run) error {
	v, address, err := r.admin(c.venueFlags, c.Address)
	if err != nil {
		return err
	}
	defer v.Close()
	what := "suspended: it can neither promise nor be promised anything"
	if c.End {
		what = "suspended no longer"
	}
	if r.cli.DryRun {
		return r.emit(map[string]any{"address": address, "suspended": !c.End}, "would be %s\n", what)
	}
	if err := v.House.Suspend(r.ctx, address, !c.End); err != nil {
		return err
	}
	return r.emit(map[string]any{"address": address, "suspended": !c.End}, "%s is %s\n", address, what)
}

func (c *memberRemoveCmd) Run(r *run) error {
	v, address, err := r.admin(c.venueFlags, c.Address)
	if err != nil {
		return err
	}
	defer v.Close()
	is := false
	return r.putMember(v, address, client.MemberChange{Member: &is})
}

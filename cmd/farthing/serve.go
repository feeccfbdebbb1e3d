package main

import (
	"net"
	"time"

	"github.com/farthing402/farthing/evm/devchain"
)

type serveCmd struct {
	RPCURL     string   `name:"rpc-url" help:"JSON-RPC of the chain." placeholder:"URL"`
	Deployment string   `default:"deployment.json" help:"What farthing deploy wrote." placeholder:"FILE"`
	Book       string   `help:"SQLite file of the clearing house, or postgres://user@host/database, which several nodes may share; FARTHING_BOOK says it too. Default house.db in farthing's folder." placeholder:"FILE|URL"`
	BLS        string   `name:"bls" help:"Certificate key file; default bls.json in farthing's folder." placeholder:"FILE"`
	Listen     string   `default:"127.0.0.1:4010" help:"Address to serve on." placeholder:"HOST:PORT"`
	Depth      int      `default:"-1" help:"Blocks on top of one before it counts; default by network." placeholder:"N"`
	Registry   []string `help:"Registry whose validators' answers are trusted, beside those of the deployment file. Repeat for several." placeholder:"ADDRESS"`
	Restored   bool     `help:"The book was restored from a backup: certify nothing until what it may have forgotten is too old to be asked for again."`
	houseFront
	deskFlags

	WebhooksPrivate bool `name:"webhooks-private" help:"Send webhooks also over plain HTTP and to addresses that are not public."`
}

// Help is shown below the flags.
func (*serveCmd) Help() string {
	return `Any number of nodes may run on one PostgreSQL database, behind a balancer: start each with the same deployment.json,
keys and --book. One of them leads, which follows the chain and sends transactions; another takes over when it is gone.
See docs/operating.md.

With --lane the clearing house is a facilitator too, on the same address: it verifies and settles transfers of x402
and T402 (exact, upto) on its chain, and the lanes pay their gas. The flags about settling are for that; see
farthing facilitator --help. With --dev it has lanes of its own.`
}

func (c *serveCmd) Run(r *run) error {
	if r.cli.Dev {
		return c.dev(r)
	}
	if c.RPCURL == "" {
		return misuse("which chain?").hint("--rpc-url URL, or --dev for a chain of its own")
	}
	d, err := loadDeployment(c.Deployment)
	if err != nil {
		return fail("config_invalid", "%v", err).hint("farthing deploy writes deployment.json; name it with --deployment")
	}
	more, err := parseRegistries(c.Registry)
	if err != nil {
		return err
	}
	d.Registries = append(d.Registries, more...)
	all, err := r.networks()
	if err != nil {
		return err
	}
	on := d.chain(all)
	key, err := r.operatorKey(on)
	if err != nil {
		return err
	}
	isDev := d.ChainID == devchain.DefaultChainID
	authority, err := r.authority(c.BLS, isDev)
	if err != nil {
		return err
	}
	book := c.Book
	if book == "" {
		book, _ = r.Env("FARTHING_BOOK") // a URL may carry a password, which a flag shows to everyone on the machine
	}
	if book == "" {
		if book, err = r.inFolder("house.db"); err != nil {
			return err
		}
	}
	lanes, err := r.lanes(c.Lane, false)
	if err != nil {
		return err
	}
	h, err := openHouse(r.ctx, houseConfig{
		Desk: deskSpec{On: deskChain(all, d), Lanes: lanes}, DeskFlags: c.deskFlags, Front: c.houseFront,
		RPC: c.RPCURL, Deployment: d, Operator: key, Authority: authority, Book: book, Depth: depthOf(on, c.Depth),
		Listen: c.Listen, Dev: isDev, Now: r.Now, Log: r.log, Story: r.say, Restored: c.Restored, WebhooksPrivate: c.WebhooksPrivate,
	})
	if err != nil {
		return err
	}
	if isDev { // processes with --dev find it
		if err := r.withDevLock(func(path string, s *devState) error {
			s.Chain, s.House = c.RPCURL, h.URL
			return s.save(path)
		}); err != nil {
			return err
		}
	}
	if c.Restored {
		r.say("restored    certifies nothing for %s: see docs/operating.md", h.quiet())
	}
	if err := c.announce(r, h); err != nil {
		return err
	}
	return h.Run(r.ctx)
}

// dev runs a clearing house over the development chain that runs already, or over one of its own.
func (c *serveCmd) dev(r *run) error {
	d, err := r.startDev(c.Listen, c.houseFront)
	if err != nil {
		return err
	}
	defer d.Close()
	if d.ownHouse == nil {
		return fail("config_invalid", "a clearing house runs already at %s", d.House).hint("use that one; --dev processes find it by themselves")
	}
	if err := c.announce(r, d.ownHouse); err != nil {
		return err
	}
	return d.wait(r.ctx)
}

// announce says what the house trusts, who pays, and which deadlines hold.
func (c *serveCmd) announce(r *run, h *house) error {
	d := h.Deployment
	schedules, err := h.Reader.Schedules(r.ctx, d.Assets[0].Address)
	if err != nil {
		return err
	}
	s := schedules[len(schedules)-1]
	seconds := func(n uint32) string { return (time.Duration(n) * time.Second).String() }
	r.say("clearing house at %s, operator %s, %s on %s", h.URL, d.Operator, d.Assets[0].Symbol, d.Network)
	if h.Store.Served() {
		r.say("node        %s on %s; of the nodes there, one leads", h.Node, h.Store.Name())
		if h.Front.PublicURL == "" {
			r.say("warning     without --public-url, the same on all nodes, clients sign in only at this node's own address")
		}
	} else {
		r.say("book        %s, of this process alone", h.Store.Name())
	}
	r.say("trusts      %s for the chain; a block counts with %d on top of it", h.RPC, h.Depth)
	for _, registry := range d.Registries {
		r.say("validators  by what they answered in the registry %s", registry)
	}
	r.say("gas         the operator pays for posting and sealing each cycle, sellers for collecting")
	r.say("deadlines   cycle %s, notes until %s after it, posted %s later at the latest, challenge window %s, withdrawals %s",
		seconds(s.Length), seconds(s.Cutoff), seconds(s.Post), seconds(s.Challenge), span(d.WithdrawalDelay))
	if len(h.Desk.Lanes) > 0 {
		specs := []deskSpec{{On: h.Desk.On, Client: h.Client, Lanes: h.Desk.Lanes}}
		if err := r.announceFacilitator(h.face, h.DeskFlags, specs, h.URL); err != nil {
			return err
		}
	}
	if ip := net.ParseIP(listenHost(h.Listen)); c.PublicURL == "" && (ip == nil || !ip.IsLoopback()) && listenHost(h.Listen) != "localhost" {
		r.say("logins      work on this machine only: name the address that clients use with --public-url")
	}
	if h.Dev {
		r.say("development money is not real")
	}
	if s.Challenge < 86400 && !h.Dev {
		r.say("warning     the challenge window is shorter than a day: you trust the sequencer not to be down or to censor for %s", seconds(s.Challenge))
	}
	return r.emit(map[string]any{"url": h.URL, "operator": d.Operator, "vault": d.Vault, "clearingHouse": d.ClearingHouse, "chainId": d.ChainID},
		"url         %s\n", h.URL)
}

// listenHost is the host of an address to listen on; empty for all of the machine's.
func listenHost(address string) string {
	host, _, _ := net.SplitHostPort(address)
	return host
}

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/evm/chain"
	"github.com/farthing402/farthing/evm/devchain"
	"github.com/farthing402/farthing/evm/keystore"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/network"
)

type deployCmd struct {
	RPCURL     string   `name:"rpc-url" required:"" help:"JSON-RPC of the chain." placeholder:"URL"`
	Deployment string   `default:"deployment.json" help:"File to write, and to go on from if it is there." placeholder:"FILE"`
	Times      string   `default:"" help:"Length of cycles and windows: demo (seconds), small (an hour), public (a day)." placeholder:"NAME"`
	Asset      string   `default:"USDC" help:"Token that is cleared: a symbol that farthing knows on the network, or an address."`
	BLS        string   `name:"bls" help:"Certificate key file, made if it is not there; default bls.json in farthing's folder." placeholder:"FILE"`
	Registry   []string `help:"Registry whose validators' answers are trusted, for guarantees that depend on one. Repeat for several." placeholder:"ADDRESS"`
}

// deployment is deployment.json: what was deployed where, how far a deployment has come, and what it clears.
type deployment struct {
	chain.Deployment
	Network string          `json:"network"`
	Name    string          `json:"eip712Name"` // carries the vault, so that one signature serves one deployment
	Version string          `json:"eip712Version"`
	Assets  []network.Token `json:"assets"`
	// Registries keep the answers of validators that the clearing house trusts. Without any, no guarantee may depend on one.
	Registries []evm.Address `json:"trustedRegistries,omitempty"`
}

func (d deployment) guarantees() guarantee.Deployment {
	return guarantee.Deployment{ChainID: d.ChainID, Name: d.Name, Version: d.Version, Vault: d.Vault, ClearingHouse: d.ClearingHouse}
}

// chain is the network that the deployment lives on, with its own token where it deployed one.
func (d deployment) chain(all network.Registry) network.Chain {
	c, ok := all.ByID(d.ChainID)
	if !ok {
		c = network.Chain{ID: d.ChainID, Name: d.Network, Native: "ETH", Depth: 12}
	}
	c.Tokens = d.Assets
	return c
}

// check compares the deployment with the chain before anyone relies on it.
func (d deployment) check(ctx context.Context, client *chain.Client) error {
	if err := d.Verify(ctx, client); err != nil {
		return fail("chain_mismatch", "%v", err).hint("pass the deployment.json that farthing deploy wrote for this chain")
	}
	return nil
}

// times are the lengths of a cycle's windows and the withdrawal delay that outlasts them, by name: the columns of
// docs/spec/clearing.md.
type times struct {
	Schedule        chain.Schedule
	WithdrawalDelay uint64
	RecoveryDelay   uint64
}

var (
	devTimes   = times{chain.Schedule{Length: 6, Cutoff: 1, Post: 4, Challenge: 4, Repost: 4, Redeem: 10}, 60, 0}
	namedTimes = map[string]times{
		"demo":   devTimes,
		"small":  {chain.Schedule{Length: 3600, Cutoff: 300, Post: 900, Challenge: 7200, Repost: 1800, Redeem: 86400}, 172800, 3600},
		"public": {chain.Schedule{Length: 86400, Cutoff: 3600, Post: 7200, Challenge: 129600, Repost: 14400, Redeem: 259200}, 1036800, 86400},
	}
)

func mustChain(name string) network.Chain {
	c, err := network.Lookup(name)
	if err != nil {
		panic(err) // a name that ships
	}
	return c
}

func (c *deployCmd) Run(r *run) error {
	registries, err := parseRegistries(c.Registry)
	if err != nil {
		return err
	}
	client, err := r.dial(c.RPCURL)
	if err != nil {
		return err
	}
	defer client.Close()
	on, err := r.chainOf(client)
	if err != nil {
		return err
	}
	if c.Times == "" {
		c.Times = "small"
		if on.ID == devchain.DefaultChainID {
			c.Times = "demo"
		}
	}
	length, ok := namedTimes[c.Times]
	if !ok {
		return misuse("no times named %q", c.Times).hint("demo, small or public")
	}
	token, err := on.Token(c.Asset)
	if err != nil {
		return err
	}
	key, err := r.operatorKey(on)
	if err != nil {
		return err
	}
	authority, err := r.authority(c.BLS, on.ID == devchain.DefaultChainID)
	if err != nil {
		return err
	}
	plan := deployPlan{
		RPC: c.RPCURL, File: c.Deployment, Deployer: key, Operator: key.Address(), Authority: authority,
		Chain: on, Assets: []network.Token{token}, Registries: registries, Times: length, Depth: on.Depth, Story: r.say, DryRun: r.cli.DryRun,
	}
	if !on.Test && !r.cli.DryRun && !r.cli.Yes {
		return misuse("%s carries real money; this software is not audited", on).hint("look at --dry-run first, then pass --yes")
	}
	d, err := r.deploy(plan)
	if err != nil {
		return err
	}
	if !r.Terminal || r.cli.JSON {
		return r.emit(d, "")
	}
	w := tabwriter.NewWriter(r.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "network\t%s\nvault\t%s\nclearing house\t%s\noperator\t%s\nasset\t%s %s\n", on, d.Vault, d.ClearingHouse, d.Operator, token.Symbol, token.Address)
	for _, s := range d.Steps {
		state := "to do"
		if s.Done {
			state = "done"
		}
		fmt.Fprintf(w, "%s\t%s\tat most %d gas\n", s.Name, state, s.Gas)
	}
	if r.cli.DryRun {
		fmt.Fprintf(w, "in all\tat most %d gas\tnothing was sent\n", d.Cost())
	} else {
		fmt.Fprintf(w, "written\t%s\n", c.Deployment)
	}
	return w.Flush()
}

// dial connects to a chain.
func (r *run) dial(url string) (*chain.Client, error) {
	client, err := chain.Dial(r.ctx, url)
	if err != nil {
		return nil, fail("chain_unreachable", "%s: %v", url, err).hint("start the chain (farthing devchain), or check --rpc-url")
	}
	return client, nil
}

// chainOf is the network that a node serves; it must be the one that --network names, if that names one.
func (r *run) chainOf(client *chain.Client) (network.Chain, error) {
	all, err := r.networks()
	if err != nil {
		return network.Chain{}, err
	}
	served, known := all.ByID(client.ChainID())
	if name := r.cli.Network; name != "" {
		want, err := all.Lookup(name)
		if err != nil {
			return network.Chain{}, err
		}
		if want.ID != client.ChainID() {
			return network.Chain{}, fail("chain_mismatch", "the node serves eip155:%d, not %s", client.ChainID(), want)
		}
		return want, nil
	}
	if !known {
		return network.Chain{}, fail("network_unknown", "the node serves eip155:%d, which farthing does not know", client.ChainID())
	}
	return served, nil
}

// operatorKey is --key; on the development chain, where everyone knows the keys, the first of its accounts will do.
func (r *run) operatorKey(on network.Chain) (*evm.PrivateKey, error) {
	if r.cli.Key == "" && on.ID == devchain.DefaultChainID {
		return devOperator(), nil
	}
	return r.signer()
}

// authority opens the certificate key, making it if it is not there.
func (r *run) authority(path string, dev bool) (*guarantee.Authority, error) {
	var err error
	if path == "" {
		if path, err = r.inFolder("bls.json"); err != nil {
			return nil, err
		}
	}
	if dev {
		return devAuthority(path)
	}
	pass, err := r.passphrase(path, false)
	if err != nil {
		return nil, err
	}
	return openAuthority(path, pass, keystore.Standard)
}

// deployPlan is what [run.deploy] deploys, and where it keeps how far it has come.
type deployPlan struct {
	RPC       string
	File      string
	Deployer  evm.Signer
	Operator  evm.Address
	Authority *guarantee.Authority
	Chain     network.Chain
	Assets    []network.Token // nil: the chain's dollars
	// Registries are trusted ones; nil on a development chain: one that is deployed there.
	Registries []evm.Address
	Times      times
	Begin      uint64 // start of the first cycle, unix seconds; 0: the last whole multiple of a cycle's length
	Depth      uint64
	Story      func(format string, args ...any)
	DryRun     bool
}

// deploy puts the contracts on the chain, or goes on with what an earlier run began and wrote to the plan's file, and
// checks the code that is there.
func (r *run) deploy(p deployPlan) (deployment, error) {
	if p.Story == nil {
		p.Story = func(string, ...any) {}
	}
	client, err := r.dial(p.RPC)
	if err != nil {
		return deployment{}, err
	}
	defer client.Close()
	d, err := loadDeployment(p.File)
	if errors.Is(err, fs.ErrNotExist) {
		d, err = r.planDeployment(client, p)
	}
	if err != nil || p.DryRun {
		return d, err
	}
	total := len(d.Steps)
	err = d.Execute(r.ctx, client, chain.DeployRun{
		Signers: []evm.Signer{p.Deployer}, Policy: chain.Policy{Depth: p.Depth}, Pause: chain.Every(200 * time.Millisecond),
		Save: func(now *chain.Deployment) error {
			done := 0
			for _, s := range now.Steps {
				if s.Done {
					done++
				}
			}
			p.Story("%d of %d transactions done", done, total)
			return d.save(p.File)
		},
	})
	if errors.Is(err, chain.ErrPlanSpent) {
		return d, fail("chain_mismatch", "%v", err).hint("move %s away to deploy anew", p.File)
	}
	if err != nil {
		return d, fail("chain_unreachable", "%v", err).hint("run the same command again: it goes on where it stopped")
	}
	return d, d.save(p.File)
}

func (r *run) planDeployment(client *chain.Client, p deployPlan) (d deployment, err error) {
	head, err := client.Head(r.ctx)
	if err != nil {
		return d, err
	}
	if p.Assets == nil {
		p.Assets = p.Chain.Dollars()
	}
	schedule := p.Times.Schedule
	if schedule.FromStart = p.Begin; p.Begin == 0 {
		schedule.FromStart = head.Time - head.Time%uint64(schedule.Length) // whole hours and days where cycles are that long
	}
	config := chain.DeployConfig{
		Registry: p.Registries == nil && p.Chain.ID == devchain.DefaultChainID,
		Deployer: p.Deployer.Address(), Operator: p.Operator, WithdrawalDelay: p.Times.WithdrawalDelay, RecoveryDelay: p.Times.RecoveryDelay,
		KeyFrom: schedule.FromStart,
		Prove: func(vault evm.Address) (key chain.Key, proof chain.KeyProof, err error) {
			k, pop, err := p.Authority.ProvePossession(guarantee.Deployment{ChainID: client.ChainID(), Vault: vault})
			for i, word := range k {
				key[i] = evm.Hash(word)
			}
			for i, word := range pop {
				proof[i] = evm.Hash(word)
			}
			return key, proof, err
		},
	}
	for i, token := range p.Assets {
		code, err := client.Code(r.ctx, token.Address)
		if err != nil {
			return d, err
		}
		switch {
		case len(code) > 0, token.Address.IsZero(): // zero is the native coin
			config.Assets = append(config.Assets, chain.DeployAsset{Asset: token.Address, Schedule: schedule})
		case p.Chain.ID == devchain.DefaultChainID: // a development chain that is not ours
			config.TestDollar, config.Dollar = true, chain.DeployAsset{Schedule: schedule}
			defer func(i int) { d.Assets[i].Address = d.TestDollar }(i)
		default:
			return d, fail("chain_mismatch", "there is no contract at %s, where %s should be on %s", token.Address, token.Symbol, p.Chain)
		}
	}
	planned, err := chain.PlanDeployment(r.ctx, client, config)
	if err != nil {
		return d, err
	}
	d = deployment{
		Deployment: *planned, Network: p.Chain.Name, Name: "4Mica " + planned.Vault.Lower(), Version: "1",
		Assets: append([]network.Token(nil), p.Assets...), Registries: p.Registries,
	}
	if config.Registry {
		d.Registries = []evm.Address{d.Registry}
	}
	return d, nil
}

// parseRegistries reads the addresses of --registry.
func parseRegistries(list []string) (registries []evm.Address, err error) {
	for _, text := range list {
		a, err := evm.ParseAddress(text)
		if err != nil || a.IsZero() {
			return nil, misuse("--registry %s: not a contract's address", text)
		}
		registries = append(registries, a)
	}
	return registries, nil
}

func loadDeployment(path string) (d deployment, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return d, err
	}
	if err := json.Unmarshal(text, &d); err != nil || d.ChainID == 0 || d.Vault.IsZero() || len(d.Assets) == 0 {
		return d, fail("config_invalid", "%s is no deployment.json", path).hint("farthing deploy writes one")
	}
	return d, nil
}

func (d deployment) save(path string) error {
	text, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return writeFile(path, append(text, '\n'), 0o644)
}

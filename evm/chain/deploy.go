package chain

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/ethereum/go-ethereum/accounts/abi"
	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/crypto"

	"github.com/farthing402/farthing/contracts"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
)

// Errors of a deployment.
var (
	// ErrOtherCode is the error of an address whose code is not the contract that should be there.
	ErrOtherCode = errors.New("the code there is another")
	// ErrPlanSpent is the error of a plan whose addresses can no longer come about, because the deployer has sent something
	// else meanwhile. Make a new plan.
	ErrPlanSpent = errors.New("the deployer has used the plan's nonces for something else")
)

// DeployConfig says what to deploy.
type DeployConfig struct {
	Deployer      evm.Address // pays for the contracts
	Operator      evm.Address // posts cycles; sets what only an operator may set
	Guardian      evm.Address // may stop new deposits; zero for nobody
	Recovery      evm.Address // may replace the operator; zero for nobody
	RecoveryDelay uint64      // seconds; shorter than every challenge window

	WithdrawalDelay uint64 // seconds; see the table of times in the specification

	Assets []DeployAsset

	// TestDollar deploys a test dollar first, lists it, and gives it the times and bond of Dollar. Only on development
	// chains.
	TestDollar bool
	Dollar     DeployAsset

	// Registry deploys a validation registry. Only on development chains: it knows no identities.
	Registry bool

	// Prove returns the operator's BLS key and its proof of possession for a vault; nil registers no key.
	Prove func(vault evm.Address) (Key, KeyProof, error)
	// KeyFrom is the start of the first cycle that the key certifies.
	KeyFrom uint64
}

// DeployAsset is an asset that is cleared from the start.
type DeployAsset struct {
	Asset    evm.Address // zero for the native coin
	Schedule Schedule

	Bond               money.Amount // paid by the operator
	BondFloor          money.Amount // these three are the bond rule, set unless all are zero
	BondPerParticipant money.Amount
	BondShareBps       uint16
}

// Deployment is a plan and how far it has come. It is plain data: keep it as JSON, and after a restart execute it again.
type Deployment struct {
	Contracts
	ChainID    uint64      `json:"chainId"`
	Disputes   evm.Address `json:"disputes"`
	Redemption evm.Address `json:"redemption"`
	TestDollar evm.Address `json:"testDollar"` // zero if none was deployed
	Registry   evm.Address `json:"registry"`   // of validations; zero if none was deployed

	Operator        evm.Address `json:"operator"`
	Deployer        evm.Address `json:"deployer"`
	DeployerNonce   uint64      `json:"deployerNonce"` // of the first step; the addresses follow from it
	WithdrawalDelay uint64      `json:"withdrawalDelay"`
	StartBlock      uint64      `json:"startBlock"` // the first block that can hold logs of the contracts

	Steps []DeployStep `json:"steps"`
}

// DeployStep is one transaction of a deployment.
type DeployStep struct {
	Name    string        `json:"name"` // for people, and unique in the deployment
	From    evm.Address   `json:"from"`
	To      evm.Address   `json:"to"`      // zero creates a contract
	Creates evm.Address   `json:"creates"` // its address to be
	Value   money.Amount  `json:"value"`
	Data    hexutil.Bytes `json:"data"`
	Gas     uint64        `json:"gas"` // upper estimate, used as the limit
	Tx      evm.Hash      `json:"tx"`  // zero until done, and for a step that was found done
	Done    bool          `json:"done"`
}

// PlanDeployment lists every transaction of a deployment with the addresses that it will have. It sends nothing. The plan
// holds while the deployer sends nothing else.
func PlanDeployment(ctx context.Context, client *Client, c DeployConfig) (*Deployment, error) {
	d, err := planDeployment(ctx, client, c)
	if err != nil {
		return nil, fmt.Errorf("plan deployment: %w", err)
	}
	return d, nil
}

func planDeployment(ctx context.Context, client *Client, c DeployConfig) (*Deployment, error) {
	if (c.TestDollar || c.Registry) && client.ChainID() != 31337 && client.ChainID() != 1337 {
		return nil, fmt.Errorf("chain %d is no development chain: anybody could mint the test dollar, or validate under any name", client.ChainID())
	}
	nonce, err := client.Nonce(ctx, c.Deployer)
	if err != nil {
		return nil, err
	}
	head, err := client.Head(ctx)
	if err != nil {
		return nil, err
	}
	d := &Deployment{
		ChainID: client.ChainID(), Operator: c.Operator, Deployer: c.Deployer, DeployerNonce: nonce,
		WithdrawalDelay: c.WithdrawalDelay, StartBlock: head.Number + 1,
	}
	place := func() evm.Address {
		a := evm.Address(crypto.CreateAddress(common.Address(c.Deployer), nonce))
		nonce++
		return a
	}
	assets := slices.Clone(c.Assets)
	if c.TestDollar {
		d.TestDollar = place()
		dollar := c.Dollar
		dollar.Asset = d.TestDollar
		assets = append(assets, dollar)
		d.create(contracts.TestDollar, d.TestDollar, nil)
	}
	if c.Registry {
		d.Registry = place()
		d.create(contracts.ValidationRegistry, d.Registry, nil)
	}
	d.Vault, d.ClearingHouse, d.Disputes, d.Redemption = place(), place(), place(), place()
	var tokens []evm.Address
	for _, asset := range assets {
		if !asset.Asset.IsZero() {
			tokens = append(tokens, asset.Asset)
		}
	}
	d.create(contracts.Vault, d.Vault, construct(vaultABI, common.Address(d.ClearingHouse), common.Address(d.Disputes),
		common.Address(d.Redemption), common.Address(c.Guardian), c.WithdrawalDelay, addresses(tokens)))
	d.create(contracts.ClearingHouse, d.ClearingHouse, construct(houseABI, common.Address(d.Vault), common.Address(c.Operator),
		common.Address(c.Recovery), c.RecoveryDelay))
	for _, asset := range assets {
		d.clear(asset)
	}
	if c.Prove != nil {
		key, proof, err := c.Prove(d.Vault)
		if err != nil {
			return nil, fmt.Errorf("prove possession of the certificate key: %w", err)
		}
		d.add("register certificate key", d.RegisterKey(key, proof, c.KeyFrom), 1_000_000)
	}
	return d, nil
}

// clear adds what makes an asset ready for cycles.
func (d *Deployment) clear(a DeployAsset) {
	name := "native coin"
	if !a.Asset.IsZero() {
		name = a.Asset.String()
	}
	d.add("set schedule of "+name, d.SetSchedule(a.Asset, a.Schedule), 250_000)
	if !a.BondFloor.IsZero() || !a.BondPerParticipant.IsZero() || a.BondShareBps != 0 {
		d.add("set bond rule of "+name, d.SetBondRule(a.Asset, a.BondFloor, a.BondPerParticipant, a.BondShareBps), 120_000)
	}
	if a.Bond.IsZero() {
		return
	}
	if a.Asset == d.TestDollar && !a.Asset.IsZero() {
		d.add("mint bond", Mint(a.Asset, d.Operator, a.Bond), 150_000)
	}
	if !a.Asset.IsZero() {
		d.add("approve bond of "+name, Approve(a.Asset, d.Vault, a.Bond), 120_000)
	}
	d.add("deposit bond of "+name, d.DepositBond(a.Asset, a.Bond), 250_000)
}

// add adds a call of the operator.
func (d *Deployment) add(name string, call evm.Call, gas uint64) {
	value, err := money.AmountFromBytes(call.Value[:])
	if err != nil {
		panic(err) // a word fits
	}
	d.Steps = append(d.Steps, DeployStep{Name: name, From: d.Operator, To: call.To, Value: value, Data: call.Data, Gas: gas})
}

// create adds the creation of a contract.
func (d *Deployment) create(a contracts.Artifact, at evm.Address, arguments []byte) {
	code := slices.Concat(a.Bytecode, arguments)
	d.Steps = append(d.Steps, DeployStep{Name: "deploy " + a.Name, From: d.Deployer, Creates: at, Data: code, Gas: creationGas(code, a.Deployed)})
}

// creationGas bounds what creating a contract uses: the transaction, its data, two gas a word of code to run, 200 gas a
// byte of code to keep, and half a million for what our constructors write.
func creationGas(code, deployed []byte) uint64 {
	return uint64(53_000 + 16*len(code) + len(code)/16 + 200*len(deployed) + 500_000)
}

// Cost returns the upper estimate of all steps that are not done, in gas.
func (d *Deployment) Cost() (gas uint64) {
	for _, step := range d.Steps {
		if !step.Done {
			gas += step.Gas
		}
	}
	return gas
}

// DeployRun is how a deployment is executed.
type DeployRun struct {
	Signers []evm.Signer // of the deployer and the operator
	Outbox  Outbox       // nil keeps calls in memory
	Policy  Policy
	Pause   func(context.Context) (time.Time, error) // see [Sender.Wait]
	Save    func(*Deployment) error                  // called whenever a step is done; nil for none
}

// Execute sends the steps that are not done and waits for them. It looks at the chain first, so that it goes on where an
// earlier run stopped, whatever that run still recorded. All steps of one account are sent at once and usually share a
// block; the operator's start when the contracts are there.
func (d *Deployment) Execute(ctx context.Context, client *Client, run DeployRun) error {
	if err := d.execute(ctx, client, run); err != nil {
		return fmt.Errorf("deploy: %w", err)
	}
	return nil
}

func (d *Deployment) execute(ctx context.Context, client *Client, run DeployRun) error {
	if err := client.RequireChain(ctx, d.ChainID); err != nil {
		return err
	}
	if run.Outbox == nil {
		run.Outbox = evm.NewMemoryOutbox()
	}
	if err := d.survey(ctx, client); err != nil {
		return err
	}
	for i := 0; i < len(d.Steps); {
		from, end := d.Steps[i].From, i+1
		for end < len(d.Steps) && d.Steps[end].From == from {
			end++
		}
		if err := d.send(ctx, client, run, from, i, end); err != nil {
			return err
		}
		i = end
	}
	if err := d.survey(ctx, client); err != nil {
		return err
	}
	for _, step := range d.Steps {
		if !step.Done {
			return fmt.Errorf("%s: the chain does not show it", step.Name)
		}
	}
	return d.Verify(ctx, client)
}

// send executes the steps from begin to end, which are of one account.
func (d *Deployment) send(ctx context.Context, client *Client, run DeployRun, from evm.Address, begin, end int) error {
	signer := slices.IndexFunc(run.Signers, func(s evm.Signer) bool { return s.Address() == from })
	if signer < 0 {
		return fmt.Errorf("no key of %v, which must %s", from, d.Steps[begin].Name)
	}
	sender := NewSender(client, run.Outbox, run.Signers[signer], run.Policy)
	for i := begin; i < end; i++ {
		if !d.Steps[i].Done {
			if err := run.Outbox.Enqueue(ctx, d.call(i)); err != nil {
				return err
			}
		}
	}
	for i := begin; i < end; i++ {
		step := &d.Steps[i]
		if step.Done {
			continue
		}
		sent, err := sender.Wait(ctx, d.call(i).ID, run.Pause)
		if err != nil {
			return fmt.Errorf("%s: %w", step.Name, err)
		}
		step.Done, step.Tx = true, sent.Receipt.TxHash
		if run.Save != nil {
			if err := run.Save(d); err != nil {
				return fmt.Errorf("save: %w", err)
			}
		}
	}
	return nil
}

// call returns a step's transaction. The vault's address and the step's name make its ID unique.
func (d *Deployment) call(i int) evm.Call {
	step := d.Steps[i]
	return evm.Call{
		ID: "deploy/" + d.Vault.Lower() + "/" + step.Name, From: step.From, To: step.To,
		Value: step.Value.Word(), Data: step.Data, GasLimit: step.Gas,
	}
}

// survey marks the steps whose effect the chain shows and unmarks the others: a reorganisation may have dropped them, or
// an earlier run may not have lived to record them.
func (d *Deployment) survey(ctx context.Context, client *Client) error {
	nonce, err := client.Nonce(ctx, d.Deployer)
	if err != nil {
		return err
	}
	for i := range d.Steps {
		step := &d.Steps[i]
		if step.Done, err = d.shows(ctx, client, *step); err != nil {
			return fmt.Errorf("%s: %w", step.Name, err)
		}
		if !step.Done && !step.Creates.IsZero() && nonce > d.DeployerNonce+uint64(i) { // creations come first
			return fmt.Errorf("%s at %v: %w", step.Name, step.Creates, ErrPlanSpent)
		}
		if !step.Done {
			step.Tx = evm.Hash{}
		}
	}
	return nil
}

func (d *Deployment) artifact(at evm.Address) contracts.Artifact {
	switch at {
	case d.Vault:
		return contracts.Vault
	case d.ClearingHouse:
		return contracts.ClearingHouse
	case d.Registry:
		return contracts.ValidationRegistry
	}
	return contracts.TestDollar
}

// Verify checks that the chain holds our contracts' code at the deployment's addresses, whatever their immutables, and that
// they name each other, the operator and the withdrawal delay as the deployment says. Settings may change later and are
// not compared.
func (d *Deployment) Verify(ctx context.Context, client *Client) error {
	if err := client.RequireChain(ctx, d.ChainID); err != nil {
		return err
	}
	for _, step := range d.Steps {
		if step.Creates.IsZero() {
			continue
		}
		if shown, err := d.shows(ctx, client, step); err != nil {
			return fmt.Errorf("verify %v: %w", step.Creates, err)
		} else if !shown {
			return fmt.Errorf("verify %v: there is no code; %w", step.Creates, ErrOtherCode)
		}
	}
	r := Reader{Client: client, Contracts: d.Contracts}
	for _, check := range []struct {
		of       evm.Address
		contract abi.ABI
		getter   string
		want     evm.Address
	}{
		{d.Vault, vaultABI, "clearingHouse", d.ClearingHouse},
		{d.Vault, vaultABI, "disputes", d.Disputes},
		{d.Vault, vaultABI, "redemption", d.Redemption},
		{d.ClearingHouse, houseABI, "vault", d.Vault},
		{d.ClearingHouse, houseABI, "operator", d.Operator},
	} {
		out, err := r.read(ctx, check.of, check.contract, check.getter)
		if err != nil {
			return err
		}
		if got := evm.Address(out[0].(common.Address)); got != check.want {
			return fmt.Errorf("verify %v: its %s is %v, want %v", check.of, check.getter, got, check.want)
		}
	}
	delay, err := r.WithdrawalDelay(ctx)
	if err == nil && delay != d.WithdrawalDelay {
		err = fmt.Errorf("verify %v: its withdrawal delay is %d s, want %d s", d.Vault, delay, d.WithdrawalDelay)
	}
	return err
}

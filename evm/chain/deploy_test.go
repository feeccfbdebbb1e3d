package chain

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/evm/devchain"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/money"
)

var demoTimes = Schedule{Length: 6, Cutoff: 1, Post: 4, Challenge: 4, Repost: 4, Redeem: 10}

var authority = func() *guarantee.Authority {
	a, err := guarantee.NewAuthority(append(make([]byte, 31), 7))
	if err != nil {
		panic(err)
	}
	return a
}()

// demoConfig deploys by account 0 for an operator, with the chain's own test dollar.
func (w world) demoConfig(operator evm.Address) DeployConfig {
	times := demoTimes
	times.FromStart = uint64(w.chain.Time().Unix()) + 10
	return DeployConfig{
		Deployer: key(0).Address(), Operator: operator, Recovery: key(9).Address(), RecoveryDelay: 2, WithdrawalDelay: 60,
		Assets: []DeployAsset{
			{Schedule: times},
			{Asset: devchain.TestDollar, Schedule: times, Bond: money.Units(1000), BondFloor: money.Units(100), BondPerParticipant: money.Units(2), BondShareBps: 100},
		},
		Prove: func(vault evm.Address) (Key, KeyProof, error) {
			key, proof, err := authority.ProvePossession(guarantee.Deployment{ChainID: w.client.ChainID(), Vault: vault})
			return key, proof, err
		},
		KeyFrom: times.FromStart,
	}
}

func (w world) plan(c DeployConfig) *Deployment {
	w.Helper()
	d, err := PlanDeployment(w.Context(), w.client, c)
	if err != nil {
		w.Fatal(err)
	}
	return d
}

func (w world) run(signers ...evm.Signer) DeployRun {
	return DeployRun{Signers: signers, Pause: w.mining()}
}

// deployed returns a deployment whose operator is account 0.
func (w world) deployed() *Deployment {
	w.Helper()
	d := w.plan(w.demoConfig(key(0).Address()))
	if err := d.Execute(w.Context(), w.client, w.run(key(0))); err != nil {
		w.Fatal(err)
	}
	return d
}

func TestDeploymentIsAsPlanned(t *testing.T) {
	t.Parallel()
	for operator, blocks := range map[*evm.PrivateKey]uint64{key(0): 1, key(4): 3} {
		w := newWorld(t)
		w.mine(3)
		d := w.plan(w.demoConfig(operator.Address()))
		before := w.chain.Height()
		saved := 0
		run := w.run(key(0), operator)
		run.Save = func(*Deployment) error { saved++; return nil }
		if err := d.Execute(t.Context(), w.client, run); err != nil {
			t.Fatal(err)
		}
		if used := w.chain.Height() - before; used > blocks {
			t.Errorf("the deployment took %d blocks", used)
		}
		if saved != len(d.Steps) || d.StartBlock != before+1 {
			t.Errorf("saved %d of %d steps, start block %d", saved, len(d.Steps), d.StartBlock)
		}
		for _, step := range d.Steps {
			receipt, err := w.client.receipt(t.Context(), step.Tx)
			if err != nil || receipt == nil || !receipt.OK {
				t.Fatalf("%s: receipt %v, %v", step.Name, receipt, err)
			}
			if receipt.GasUsed > step.Gas || step.Gas > GasMax || receipt.GasUsed*10 < step.Gas*3 {
				t.Errorf("%s used %d gas, planned %d", step.Name, receipt.GasUsed, step.Gas)
			}
		}
		if d.Cost() != 0 {
			t.Error("steps are left over")
		}
		checkSettings(w, d)
	}
}

func checkSettings(w world, d *Deployment) {
	w.Helper()
	ctx, r := w.Context(), Reader{Client: w.client, Contracts: d.Contracts}
	if err := d.Verify(ctx, w.client); err != nil {
		w.Error(err)
	}
	tokens, err := r.Tokens(ctx)
	if err != nil || !slices.Equal(tokens, []evm.Address{devchain.TestDollar}) {
		w.Errorf("tokens %v, %v", tokens, err)
	}
	bond, err := r.Bond(ctx, devchain.TestDollar)
	if err != nil || bond != money.Units(1000) {
		w.Errorf("bond %v, %v", bond, err)
	}
	least, err := r.MinimumBond(ctx, devchain.TestDollar, 80, money.Units(1))
	if err != nil || least != money.Units(160) {
		w.Errorf("minimum bond %v, %v", least, err)
	}
	domain, err := r.CertificateDomain(ctx)
	if want := (guarantee.Deployment{ChainID: d.ChainID, Vault: d.Vault}).CertificateDomain(); err != nil || domain != want {
		w.Errorf("certificate domain %v, %v; want %v", domain, err, want)
	}
	operator, err := r.Operator(ctx)
	if err != nil || operator != d.Operator {
		w.Errorf("operator %v, %v", operator, err)
	}
	if err := w.chain.AdvanceTime(time.Minute); err != nil {
		w.Fatal(err)
	}
	w.mine(1)
	words, err := authority.PublicKey().G1Words()
	if err != nil {
		w.Fatal(err)
	}
	if current, err := r.CurrentKey(ctx); err != nil || current != words {
		w.Errorf("key %x, %v", current, err)
	}
}

// However often the process dies, with nothing but the saved plan, the deployment comes out the same.
func TestDeploymentResumes(t *testing.T) {
	t.Parallel()
	errKilled := errors.New("killed")
	for _, operator := range []*evm.PrivateKey{key(0), key(4)} {
		for _, saves := range []bool{true, false} {
			w := newWorld(t)
			d := w.plan(w.demoConfig(operator.Address()))
			plan, err := json.Marshal(d)
			if err != nil {
				t.Fatal(err)
			}
			var last error
			for pauses := 1; ; pauses++ {
				if pauses > 60 {
					t.Fatal("it never ends:", last)
				}
				again := new(Deployment)
				if err := json.Unmarshal(plan, again); err != nil {
					t.Fatal(err)
				}
				run := w.run(key(0), operator)
				mining, left := run.Pause, 1+pauses%3
				run.Pause = func(ctx context.Context) (time.Time, error) {
					if left--; left < 0 {
						return time.Time{}, errKilled
					}
					return mining(ctx)
				}
				run.Save = func(d *Deployment) (err error) {
					if saves {
						plan, err = json.Marshal(d)
					}
					return err
				}
				if last = again.Execute(t.Context(), w.client, run); last == nil {
					checkSettings(w, again)
					break
				} else if !errors.Is(last, errKilled) {
					t.Fatal(last)
				}
				w.mine(pauses % 2)
			}
		}
	}
}

func TestADeploymentSurvivesJSON(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	d := w.plan(w.demoConfig(key(4).Address()))
	text, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	again := new(Deployment)
	if err := json.Unmarshal(text, again); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(d, again, cmp.Comparer(func(a, b money.Amount) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
}

func TestAPlanWhoseNoncesAreSpentIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	d := w.plan(w.demoConfig(key(0).Address()))
	w.send(key(0), give(key(1).Address(), 1))
	if err := d.Execute(t.Context(), w.client, w.run(key(0))); !errors.Is(err, ErrPlanSpent) {
		t.Errorf("executing gave %v", err)
	}
}

func TestVerifyRefusesWhatIsNotOurs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	d := w.deployed()
	for name, spoil := range map[string]func(*Deployment){
		"another chain":     func(d *Deployment) { d.ChainID++ },
		"another operator":  func(d *Deployment) { d.Operator = key(7).Address() },
		"another delay":     func(d *Deployment) { d.WithdrawalDelay++ },
		"another disputes":  func(d *Deployment) { d.Disputes = key(7).Address() },
		"a token for vault": func(d *Deployment) { d.Vault, d.Steps[0].Creates = devchain.TestDollar, devchain.TestDollar },
		"no code":           func(d *Deployment) { d.Vault, d.Steps[0].Creates = key(7).Address(), key(7).Address() },
	} {
		spoiled := *d
		spoiled.Steps = slices.Clone(d.Steps)
		spoil(&spoiled)
		if err := spoiled.Verify(t.Context(), w.client); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
	if err := d.Verify(t.Context(), w.client); err != nil {
		t.Error(err)
	}
}

func TestTheTestDollarStaysOnDevelopmentChains(t *testing.T) {
	t.Parallel()
	w := worldOf(t, devchain.Config{ChainID: 8453})
	c := w.demoConfig(key(0).Address())
	c.TestDollar = true
	if _, err := PlanDeployment(t.Context(), w.client, c); err == nil {
		t.Error("money for everybody was planned on another chain")
	}
	c.TestDollar, c.Registry = false, true
	if _, err := PlanDeployment(t.Context(), w.client, c); err == nil {
		t.Error("a registry that knows no identities was planned on another chain")
	}
	w = newWorld(t)
	c = w.demoConfig(key(0).Address())
	c.Assets, c.TestDollar, c.Dollar = c.Assets[:1], true, c.Assets[1]
	d := w.plan(c)
	if err := d.Execute(t.Context(), w.client, w.run(key(0))); err != nil {
		t.Fatal(err)
	}
	if bond, err := (Reader{Client: w.client, Contracts: d.Contracts}).Bond(t.Context(), d.TestDollar); err != nil || bond != money.Units(1000) {
		t.Errorf("bond %v, %v", bond, err)
	}
}

package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/evm/chain"
	"github.com/farthing402/farthing/evm/devchain"
	"github.com/farthing402/farthing/evm/keystore"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/network"
)

// devState is how processes with --dev find each other: who runs the chain and the clearing house, in a file of the data
// folder. It is believed only as far as the named services answer.
type devState struct {
	Chain string `json:"chain,omitempty"` // RPC URL
	House string `json:"house,omitempty"` // URL of the clearing house
}

// devStack is the chain and clearing house that a development process uses, its own or another's.
type devStack struct {
	devState
	Deployment deployment // of its own house
	ownHouse   *house
	ownChain   *devchain.Chain
	workers    *errgroup.Group
	stop       context.CancelFunc
}

// withDevLock runs fn while no other process of this user changes who runs what.
func (r *run) withDevLock(fn func(path string, s *devState) error) error {
	path, err := r.inFolder("dev", "state.json")
	if err != nil {
		return err
	}
	lock, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer lock.Close() // which unlocks
	for {
		if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err == nil {
			break
		}
		select {
		case <-r.ctx.Done():
			return r.ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
	var s devState
	if text, err := os.ReadFile(path); err == nil {
		_ = json.Unmarshal(text, &s) // what cannot be read names nobody
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return fn(path, &s)
}

func (s devState) save(path string) error {
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(path, text, 0o600)
}

// findDev returns the services that are alive.
func (r *run) findDev() (s devState, err error) {
	err = r.withDevLock(func(_ string, found *devState) error {
		s = r.alive(*found)
		return nil
	})
	return s, err
}

func (r *run) alive(s devState) devState {
	ctx, cancel := context.WithTimeout(r.ctx, 3*time.Second)
	defer cancel()
	if s.Chain != "" {
		if c, err := chain.Dial(ctx, s.Chain); err != nil {
			s.Chain = ""
		} else {
			c.Close()
		}
	}
	if s.House != "" {
		req, _ := http.NewRequestWithContext(ctx, http.MethodGet, s.House+"/core/public-params", nil)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			s.House = ""
		} else {
			resp.Body.Close()
		}
	}
	return s
}

// startDev finds the development chain and clearing house, starting in this process what nobody runs. Close the stack
// when done: what it started ends with it. listen is where a clearing house of its own
// would serve, and front how.
func (r *run) startDev(listen string, front houseFront) (*devStack, error) {
	d := &devStack{}
	err := r.withDevLock(func(path string, s *devState) error {
		live := r.alive(*s)
		if live.Chain == "" {
			live.House = "" // it cannot work without
			own, err := devchain.Start(r.ctx, devchain.Config{Logger: r.log})
			if err != nil {
				return err
			}
			d.ownChain, live.Chain = own, own.URL()
		}
		if live.House == "" {
			dir, err := r.devFolder(live.Chain)
			if err != nil {
				return err
			}
			if d.Deployment, err = r.devDeployment(live.Chain, dir); err != nil {
				return err
			}
			if err := r.startDevHouse(d, live.Chain, dir, listen, front); err != nil {
				return err
			}
			live.House = d.ownHouse.URL
		}
		d.devState = live
		return live.save(path)
	})
	if err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

// startDevHouse runs a clearing house over the development chain in this process.
func (r *run) startDevHouse(d *devStack, rpc, dir, listen string, front houseFront) error {
	authority, err := devAuthority(filepath.Join(dir, "bls.json"))
	if err != nil {
		return err
	}
	client, err := r.dial(rpc)
	if err != nil {
		return err
	}
	defer client.Close()
	lanes, err := r.devLanes(client, dir, "house")
	if err != nil {
		return err
	}
	all, err := r.networks()
	if err != nil {
		return err
	}
	d.ownHouse, err = openHouse(r.ctx, houseConfig{
		Desk: deskSpec{On: deskChain(all, d.Deployment), Lanes: lanes}, DeskFlags: devDesk, Front: front,
		RPC: rpc, Deployment: d.Deployment, Operator: devOperator(), Authority: authority, Book: filepath.Join(dir, "house.db"),
		Depth: 1, Listen: listen, Dev: true, Now: r.Now, Log: r.log,
	})
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(r.ctx))
	d.stop = stop
	d.workers, ctx = errgroup.WithContext(ctx)
	d.workers.Go(func() error { return d.ownHouse.Run(ctx) })
	return nil
}

// wait returns when ctx ends, or when the stack's own house fails.
func (d *devStack) wait(ctx context.Context) error {
	if d.workers == nil {
		<-ctx.Done()
		return nil
	}
	failed := make(chan error, 1)
	go func() { failed <- d.workers.Wait() }()
	select {
	case <-ctx.Done():
		d.stop()
		return <-failed
	case err := <-failed:
		return err
	}
}

// Close ends what the stack started.
func (d *devStack) Close() {
	if d.stop != nil {
		d.stop()
		_ = d.workers.Wait()
	}
	if d.ownChain != nil {
		_ = d.ownChain.Close()
	}
}

// devFolder is where what belongs to one development chain is kept. A chain that is made anew has another first block,
// so its books never mix with an older one's.
func (r *run) devFolder(rpc string) (string, error) {
	client, err := chain.Dial(r.ctx, rpc)
	if err != nil {
		return "", err
	}
	defer client.Close()
	genesis, err := client.Block(r.ctx, 0)
	if err != nil {
		return "", err
	}
	path, err := r.inFolder("dev", "chain-"+genesis.Hash.String()[2:14], "x")
	return filepath.Dir(path), err
}

// devDeployment returns the contracts on the development chain, deploying them if this is the first time.
func (r *run) devDeployment(rpc, dir string) (deployment, error) {
	authority, err := devAuthority(filepath.Join(dir, "bls.json"))
	if err != nil {
		return deployment{}, err
	}
	on := mustChain("dev")
	coin := network.Token{Symbol: on.Native, Decimals: 18} // the zero address
	return r.deploy(deployPlan{
		RPC: rpc, File: filepath.Join(dir, "deployment.json"), Deployer: devOperator(), Operator: devOperator().Address(),
		Authority: authority, Chain: on, Assets: append(on.Dollars(), coin), Times: devTimes, Depth: 0,
	})
}

func devOperator() *evm.PrivateKey { return devchain.Accounts()[0] }

// devFaucet pays for development keys. It is not the operator, whose nonces belong to the clearing house alone.
func devFaucet() *evm.PrivateKey { return devchain.Accounts()[9] }

// devAuthority is a certificate key without a passphrase, made when first asked for.
func devAuthority(path string) (*guarantee.Authority, error) {
	return openAuthority(path, nil, keystore.Light)
}

// openAuthority opens a certificate key, making it if it is not there.
func openAuthority(path string, pass []byte, cost keystore.Cost) (*guarantee.Authority, error) {
	secret, err := keystore.LoadSecret(path, pass)
	if errors.Is(err, fs.ErrNotExist) {
		if secret, err = newSecret(); err == nil {
			err = keystore.SaveSecret(path, secret, pass, cost)
		}
	}
	if err != nil {
		return nil, keyFault(path, err)
	}
	return guarantee.NewAuthority(secret)
}

func newSecret() ([]byte, error) {
	secret := make([]byte, 32)
	_, err := rand.Read(secret)
	secret[0] &= 0x3f // below the order of the group of BLS12-381
	return secret, err
}

// devKey is this user's development key for a role, made when first asked for.
func (r *run) devKey(role string) (key *evm.PrivateKey, created bool, err error) {
	path := r.cli.Key
	if path == "" {
		if path, err = r.inFolder("dev", "keys", role+".json"); err != nil {
			return nil, false, err
		}
	}
	if key, created, err = keystore.LoadOrCreate(path, nil, keystore.Light); err != nil {
		return nil, false, keyFault(path, err)
	}
	return key, created, nil
}

// fund gives a development key one ether and a hundred test dollars out of the faucet, if it has less than half of that.
// Without --dev, or in a dry run, it does nothing.
func (r *run) fund(v *venue, key *evm.PrivateKey) error {
	if !r.cli.Dev || r.cli.DryRun {
		return nil
	}
	if err := r.fundGas(v.Client, key.Address()); err != nil {
		return err
	}
	return r.withDevLock(func(string, *devState) error { // one process at a time uses the faucet's nonces
		held, err := v.Client.TokenBalance(r.ctx, v.Token.Address, key.Address())
		if err != nil {
			return err
		}
		if held.Less(money.Units(50_000_000)) {
			_, err = r.sendAll(v.Client, devFaucet(), 0, chain.Mint(v.Token.Address, key.Address(), money.Units(100_000_000)))
		}
		return err
	})
}

// fundGas gives a development account one ether if it has less than half of that.
func (r *run) fundGas(client *chain.Client, account evm.Address) error {
	return r.withDevLock(func(string, *devState) error {
		gas, err := client.Balance(r.ctx, account)
		if err == nil && gas.Less(money.Units(500_000_000_000_000_000)) {
			_, err = r.sendAll(client, devFaucet(), 0, evm.Call{To: account, Value: ethers(1).Word()})
		}
		return err
	})
}

// sendAll sends calls from one key, together, and waits until each is depth deep.
func (r *run) sendAll(client *chain.Client, key evm.Signer, depth uint64, calls ...evm.Call) ([]evm.SentCall, error) {
	outbox := evm.NewMemoryOutbox()
	sender := chain.NewSender(client, outbox, key, chain.Policy{Depth: depth, InFlightMax: 64})
	for i := range calls {
		calls[i].ID, calls[i].From = fmt.Sprintf("%d", i), key.Address()
		if err := outbox.Enqueue(r.ctx, calls[i]); err != nil {
			return nil, err
		}
	}
	sent := make([]evm.SentCall, len(calls))
	for i := range calls {
		var err error
		if sent[i], err = sender.Wait(r.ctx, calls[i].ID, chain.Every(100*time.Millisecond)); err != nil {
			return sent, err
		}
	}
	return sent, nil
}

// ethers returns n ether in wei.
func ethers(n uint64) money.Amount {
	wei, _ := money.Units(1_000_000_000_000_000_000).Mul(money.Units(n)) // far below 2^256
	return wei
}

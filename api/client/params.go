package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
)

// Params is what a clearing house says about itself.
type Params struct {
	Deployment guarantee.Deployment
	Key        guarantee.PublicKey
	RPCURL     string // of its chain; may be empty
	// A claim's timestamp is accepted from TimestampPast before the house's clock to TimestampFuture after it.
	TimestampPast, TimestampFuture time.Duration
	Schedules                      []Schedule
	Batch                          bool  // batch certificates are offered
	Versions                       []int // of claims that are admitted
	// Registries are those whose validators' answers the house goes by. Without any, no guarantee may depend on a validator.
	Registries []evm.Address
}

// Schedule is the times of an asset's cycles that start at From or later, until a later schedule's From.
type Schedule struct {
	Asset                                           evm.Address
	From                                            uint64 // unix seconds
	Length, Cutoff, Post, Challenge, Repost, Redeem time.Duration
}

// Token is an asset that the clearing house takes as collateral.
type Token struct {
	Symbol   string      `json:"symbol"`
	Address  evm.Address `json:"address"`
	Decimals uint8       `json:"decimals"`
}

type paramsWire struct {
	Key           guarantee.PublicKey `json:"public_key"`
	Vault         evm.Address         `json:"contract_address"`
	ClearingHouse *evm.Address        `json:"clearing_house_address"`
	RPCURL        string              `json:"ethereum_http_rpc_url"`
	Name          string              `json:"eip712_name"`
	Version       string              `json:"eip712_version"`
	ChainID       uint64              `json:"chain_id"`
	Domain        *evm.Hash           `json:"active_guarantee_domain_separator"`
	Versions      []int               `json:"accepted_guarantee_versions"`
	MaxVersion    int                 `json:"max_accepted_guarantee_version"`
	Registries    []evm.Address       `json:"trusted_validation_registries"`
	Forms         []string            `json:"certificate_forms"`
	Window        struct {
		Past   uint64 `json:"past_seconds"`
		Future uint64 `json:"future_seconds"`
	} `json:"timestamp_window"`
	Schedules []struct {
		Asset     evm.Address `json:"asset_address"`
		From      uint64      `json:"from"`
		Length    uint64      `json:"length_seconds"`
		Cutoff    uint64      `json:"cutoff_seconds"`
		Post      uint64      `json:"post_seconds"`
		Challenge uint64      `json:"challenge_seconds"`
		Repost    uint64      `json:"repost_seconds"`
		Redeem    uint64      `json:"redeem_seconds"`
	} `json:"schedules"`
}

// Params returns what the clearing house says about itself. It asks until it succeeds once, and then remembers: a
// deployment never changes, a house with other parameters is another house.
func (c *Client) Params(ctx context.Context) (Params, error) {
	c.mu.Lock()
	known := c.params
	c.mu.Unlock()
	if known != nil {
		return *known, nil
	}
	var w paramsWire
	if err := c.get(ctx, "/core/public-params", &w); err != nil {
		return Params{}, err
	}
	p := Params{
		Deployment: guarantee.Deployment{ChainID: w.ChainID, Name: w.Name, Version: w.Version, Vault: w.Vault},
		Key:        w.Key, RPCURL: w.RPCURL,
		TimestampPast: seconds(w.Window.Past), TimestampFuture: seconds(w.Window.Future),
	}
	if w.ClearingHouse != nil {
		p.Deployment.ClearingHouse = *w.ClearingHouse
	}
	p.Versions = w.Versions
	for v := 1; len(w.Versions) == 0 && v <= max(w.MaxVersion, 1); v++ { // an empty list stands for all of them
		p.Versions = append(p.Versions, v)
	}
	if slices.Contains(p.Versions, 2) {
		p.Registries = w.Registries
	}
	for _, f := range w.Forms {
		p.Batch = p.Batch || f == "batch"
	}
	for _, s := range w.Schedules {
		p.Schedules = append(p.Schedules, Schedule{
			Asset: s.Asset, From: s.From, Length: seconds(s.Length), Cutoff: seconds(s.Cutoff), Post: seconds(s.Post),
			Challenge: seconds(s.Challenge), Repost: seconds(s.Repost), Redeem: seconds(s.Redeem),
		})
	}
	if err := w.check(p); err != nil {
		return Params{}, c.unreachable(ctx, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.params = &p
	return p, nil
}

// check refuses parameters under which no certificate could ever verify.
func (w paramsWire) check(p Params) error {
	if w.Name == "" || w.Version == "" || w.ChainID == 0 || w.Vault.IsZero() {
		return errors.New("parameters are incomplete")
	}
	if w.Domain != nil && *w.Domain != p.Deployment.DomainOf(uint64(max(1, min(w.MaxVersion, 2)))) {
		return errors.New("parameters contradict each other: the certificates' domain is not of this chain and vault")
	}
	if _, err := guarantee.NewVerifier(p.Key, p.Deployment); err != nil {
		return err
	}
	return nil
}

// Tokens returns the tokens that can be collateral. The chain's own coin, the zero address, is not listed.
func (c *Client) Tokens(ctx context.Context) ([]Token, error) {
	var w struct {
		Tokens []Token `json:"tokens"`
	}
	err := c.get(ctx, "/core/tokens", &w)
	return w.Tokens, err
}

// Health is what the clearing house says about itself and its parts: "ok" or "fail" each.
type Health struct {
	Status string `json:"status"`
	DB     string `json:"db"`
	Chain  string `json:"chain_rpc"`
}

// Health asks how the clearing house is. One that answers that it is ill has answered: the error is nil, and Status is
// "fail".
func (c *Client) Health(ctx context.Context) (h Health, err error) {
	status, wait, answer, err := c.send(ctx, http.MethodGet, "/core/health", "", nil)
	if err != nil {
		return Health{}, err
	}
	if status != http.StatusOK && status != http.StatusServiceUnavailable {
		return Health{}, c.refusal(ctx, status, wait, answer)
	}
	if err := json.Unmarshal(answer, &h); err != nil || h.Status == "" {
		return Health{}, c.unreachable(ctx, fmt.Errorf("answered %d without a state", status))
	}
	return h, nil
}

// seconds converts without wrapping: no deadline lies further away than a duration can say.
func seconds(n uint64) time.Duration {
	const most = uint64(1<<63-1) / uint64(time.Second)
	return time.Duration(min(n, most)) * time.Second
}

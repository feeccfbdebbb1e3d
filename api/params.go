package api

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
)

// paramsAnswer has 4Mica's members first and Farthing's after them.
type paramsAnswer struct {
	Key              guarantee.PublicKey `json:"public_key"`
	Vault            evm.Address         `json:"contract_address"`
	RPCURL           string              `json:"ethereum_http_rpc_url"`
	Name             string              `json:"eip712_name"`
	Version          string              `json:"eip712_version"`
	ChainID          uint64              `json:"chain_id"`
	MaxVersion       int                 `json:"max_accepted_guarantee_version"`
	Versions         []int               `json:"accepted_guarantee_versions"`
	Domain           evm.Hash            `json:"active_guarantee_domain_separator"`
	Registries       []evm.Address       `json:"trusted_validation_registries"`
	Canonicalization string              `json:"validation_hash_canonicalization_version"`

	ClearingHouse   evm.Address      `json:"clearing_house_address"`
	Certificates    []string         `json:"certificate_forms"`
	Signatures      []guarantee.Form `json:"signature_forms"`
	TimestampWindow timestampWindow  `json:"timestamp_window"`
	ItemsMax        int              `json:"guarantees_per_request_max"`
	Schedules       []scheduleAnswer `json:"schedules"`
	MembersOnly     bool             `json:"members_only"`
}

type timestampWindow struct {
	Past   uint64 `json:"past_seconds"`
	Future uint64 `json:"future_seconds"`
}

type scheduleAnswer struct {
	Asset     evm.Address `json:"asset_address"`
	From      uint64      `json:"from"` // unix seconds
	Length    uint64      `json:"length_seconds"`
	Cutoff    uint64      `json:"cutoff_seconds"`
	Post      uint64      `json:"post_seconds"`
	Challenge uint64      `json:"challenge_seconds"`
	Repost    uint64      `json:"repost_seconds"`
	Redeem    uint64      `json:"redeem_seconds"`
}

func (h *handler) publicParams(r *http.Request) (any, error) {
	d := h.House.Deployment
	a := paramsAnswer{
		Key: h.House.Authority.PublicKey(), Vault: d.Vault, RPCURL: h.RPCURL, Name: d.Name, Version: d.Version, ChainID: d.ChainID,
		MaxVersion: 1, Versions: []int{1}, Domain: d.DomainOf(1), Registries: []evm.Address{},
		Canonicalization: guarantee.CanonicalRequest,
		ClearingHouse:    d.ClearingHouse, Certificates: []string{"single", "batch"}, Signatures: []guarantee.Form{guarantee.EIP712},
		TimestampWindow: timestampWindow{uint64(h.House.Past.Seconds()), uint64(h.House.Future.Seconds())},
		ItemsMax:        ItemsMax, Schedules: []scheduleAnswer{}, MembersOnly: h.House.MembersOnly,
	}
	if len(h.House.Registries) > 0 {
		a.MaxVersion, a.Versions, a.Domain, a.Registries = 2, []int{1, 2}, d.DomainOf(2), h.House.Registries
	}
	if h.House.Rules.EIP191 {
		a.Signatures = append(a.Signatures, guarantee.EIP191)
	}
	assets, err := h.House.Assets(r.Context())
	if err != nil {
		return nil, err
	}
	for _, asset := range assets {
		list, err := h.House.Schedules(r.Context(), asset)
		if err != nil {
			return nil, err
		}
		for _, s := range list {
			a.Schedules = append(a.Schedules, scheduleOf(s))
		}
	}
	return a, nil
}

func scheduleOf(s clearing.Schedule) scheduleAnswer {
	return scheduleAnswer{s.Asset, s.From, s.Length, s.Cutoff, s.Post, s.Challenge, s.Repost, s.Redeem}
}

type tokensAnswer struct {
	ChainID uint64        `json:"chain_id"`
	Tokens  []tokenAnswer `json:"tokens"`
}

type tokenAnswer struct {
	Symbol   string      `json:"symbol"`
	Address  evm.Address `json:"address"`
	Decimals uint8       `json:"decimals"`
}

func (h *handler) tokens(*http.Request) (any, error) {
	a := tokensAnswer{h.House.Deployment.ChainID, make([]tokenAnswer, 0, len(h.Tokens))}
	for _, t := range h.Tokens {
		if !t.Address.IsZero() { // the chain's coin is not listed
			a.Tokens = append(a.Tokens, tokenAnswer{t.Symbol, t.Address, t.Decimals})
		}
	}
	return a, nil
}

type healthAnswer struct {
	Status string `json:"status"`
	DB     string `json:"db"`
	Chain  string `json:"chain_rpc"`
	Node   string `json:"node,omitempty"`
	Leads  *bool  `json:"leads,omitempty"`
}

// health answers 503 if a part fails. Why it fails is the operator's to read.
func (h *handler) health(r *http.Request) (any, error) {
	a := healthAnswer{Status: "ok", DB: h.well(r, "db", h.Health.DB), Chain: h.well(r, "chain_rpc", h.Health.Chain)}
	if h.Health.Node != nil {
		name, leads := h.Health.Node()
		a.Node, a.Leads = name, &leads
	}
	if a.DB == "ok" && a.Chain == "ok" {
		return a, nil
	}
	a.Status = "fail"
	body, err := json.Marshal(a)
	return page{status: http.StatusServiceUnavailable, kind: "application/json", body: body}, err
}

func (h *handler) well(r *http.Request, part string, check func(context.Context) error) string {
	if check == nil {
		return "ok"
	}
	if err := check(r.Context()); err != nil {
		h.Log.Warn("health check failed", "part", part, "error", err)
		return "fail"
	}
	return "ok"
}

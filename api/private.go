package api

import (
	"net/http"

	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/x402"
)

// hexAmount is an amount as 4Mica's core writes it in balances and payments.
type hexAmount money.Amount

// MarshalText implements encoding.TextMarshaler with minimal hexadecimal digits.
func (a hexAmount) MarshalText() ([]byte, error) { return []byte(money.Amount(a).Hex()), nil }

type assetBalanceAnswer struct {
	User      evm.Address `json:"user_address"`
	Asset     evm.Address `json:"asset_address"`
	Total     hexAmount   `json:"total"`
	Locked    hexAmount   `json:"locked"`
	Version   uint64      `json:"version"`
	UpdatedAt int64       `json:"updated_at"`
}

// assetBalance answers as 4Mica's core does. That core counts versions of a row; here a balance is as of now, so the
// version is the second at which it was read.
func (h *handler) assetBalance(r *http.Request) (any, error) {
	a, err := h.account(r, r.PathValue("asset"))
	if err != nil {
		return nil, err
	}
	if a == (clearing.Account{Owner: a.Owner, Asset: a.Asset}) {
		return nil, nil
	}
	now := h.Now().Unix()
	return assetBalanceAnswer{a.Owner, a.Asset, hexAmount(a.Collateral()), hexAmount(a.Exposure()), uint64(max(0, now)), now}, nil
}

type balanceAnswer struct {
	User       evm.Address   `json:"user_address"`
	Asset      evm.Address   `json:"asset_address"`
	Collateral money.Amount  `json:"collateral"`
	Exposure   money.Amount  `json:"exposure"`
	Withdrawal money.Amount  `json:"withdrawal"`
	Headroom   money.Amount  `json:"headroom"`
	Limit      *money.Amount `json:"limit_per_cycle"`
	AutoSettle bool          `json:"auto_settle"`
}

// balance answers for one asset, or for all that are cleared here.
func (h *handler) balance(r *http.Request) (any, error) {
	if text := r.URL.Query().Get("asset"); text != "" {
		a, err := h.account(r, text)
		if err != nil {
			return nil, err
		}
		return balanceOf(a), nil
	}
	assets, err := h.House.Assets(r.Context())
	if err != nil {
		return nil, err
	}
	list := make([]balanceAnswer, len(assets))
	for i, asset := range assets {
		a, err := h.account(r, asset.Lower())
		if err != nil {
			return nil, err
		}
		list[i] = balanceOf(a)
	}
	return map[string]any{"balances": list}, nil
}

func balanceOf(a clearing.Account) balanceAnswer {
	b := balanceAnswer{
		User: a.Owner, Asset: a.Asset, Collateral: a.Collateral(), Exposure: a.Exposure(), Withdrawal: a.Held(), Headroom: a.Headroom(),
		AutoSettle: a.AutoSettle,
	}
	if limit, ok := a.Limit(); ok {
		b.Limit = &limit
	}
	return b
}

func (h *handler) account(r *http.Request, assetText string) (clearing.Account, error) {
	user, err := evm.ParseAddress(r.PathValue("user"))
	if err != nil {
		return clearing.Account{}, x402.Errorf("malformed_request", "user: %w", err)
	}
	asset, err := h.asset(assetText)
	if err != nil {
		return clearing.Account{}, err
	}
	return h.House.Account(r.Context(), user, asset)
}

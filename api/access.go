package api

import (
	"context"
	"net/http"
	"slices"
	"strings"

	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/login"
	"github.com/farthing402/farthing/x402"
)

// The roles and scopes of wallets, as 4Mica has them.
const (
	RoleUser        = "user"
	RoleFacilitator = "facilitator"
	RoleAdmin       = "admin"

	ScopeRead   = "tab:read"
	ScopeIssue  = "guarantee:issue"
	ScopeCreate = "tab:create"
)

// Roles and Scopes are all there are.
var (
	Roles  = []string{RoleUser, RoleFacilitator, RoleAdmin}
	Scopes = []string{ScopeRead, ScopeIssue, ScopeCreate}
)

// usualScopes are those of a wallet of which the operator has not said others: selling needs nobody's hand.
var usualScopes = []string{ScopeRead, ScopeIssue}

// caller is who makes a request.
type caller struct {
	address evm.Address
	wallet  clearing.Wallet // with role and scopes as they are now, whatever the token says
	key     *login.Key      // an API key in place of a wallet
}

func (c caller) may(scope string) bool { return slices.Contains(c.wallet.Scopes, scope) }

// holds says whether the caller has an API key's scope: an admin has them all.
func (c caller) holds(scope string) bool {
	if c.key != nil {
		return slices.Contains(c.key.Scopes, scope)
	}
	return c.wallet.Role == RoleAdmin
}

// access decides whether a request may be made. Who may is in the request's context afterwards.
type access func(*handler, *http.Request) (*http.Request, error)

// open is for everybody: who one is does not matter, and a token is not even looked at.
func open(_ *handler, r *http.Request) (*http.Request, error) { return r, nil }

// bySignature is for requests whose content is signed. A token is not needed, but one that is sent must be good.
func bySignature(h *handler, r *http.Request) (*http.Request, error) {
	if r.Header.Get("Authorization") == "" {
		return r, nil
	}
	_, err := h.bearer(r)
	return r, err
}

// reader is for every wallet that has logged in and may read.
func reader(h *handler, r *http.Request) (*http.Request, error) {
	c, err := h.caller(r)
	if err != nil {
		return r, err
	}
	if c.key != nil || !c.may(ScopeRead) {
		return r, x402.Errorf("forbidden", "missing scope %s", ScopeRead)
	}
	return r.WithContext(context.WithValue(r.Context(), callerKey{}, c)), nil
}

// own is for the wallet that the path names in a part, and for those with one of the roles.
func own(part string, roles ...string) access {
	return func(h *handler, r *http.Request) (*http.Request, error) {
		r, err := reader(h, r)
		if err != nil {
			return r, err
		}
		address, err := evm.ParseAddress(r.PathValue(part))
		if err != nil {
			return r, x402.Errorf("malformed_request", "%s: %w", part, err)
		}
		return r, callerOf(r).isOr(address, roles...)
	}
}

// isOr refuses whoever is neither one of the addresses' own wallet nor has one of the roles.
func (c caller) isOr(address evm.Address, roles ...string) error {
	if c.address == address || slices.Contains(roles, c.wallet.Role) {
		return nil
	}
	return x402.Errorf("forbidden", "%s is logged in, and this is about %s", c.address, address)
}

// administers is for admins, and for API keys with a scope.
func administers(scope string) access {
	return func(h *handler, r *http.Request) (*http.Request, error) {
		c, err := h.caller(r)
		if err != nil {
			return r, err
		}
		if !c.holds(scope) {
			return r, x402.Errorf("forbidden", "missing scope %s", scope)
		}
		return r.WithContext(context.WithValue(r.Context(), callerKey{}, c)), nil
	}
}

// seesMetrics is who sees /metrics.
func (h *handler) seesMetrics() access {
	if h.MetricsOpen {
		return open
	}
	return administers(login.ScopeMetrics)
}

type callerKey struct{}

func callerOf(r *http.Request) caller {
	c, _ := r.Context().Value(callerKey{}).(caller)
	return c
}

// bearer returns whose access token the request carries.
func (h *handler) bearer(r *http.Request) (evm.Address, error) {
	text := r.Header.Get("Authorization")
	if text == "" || h.Login == nil {
		return evm.Address{}, x402.Errorf("unauthorized", "missing authorization")
	}
	scheme, token, ok := strings.Cut(text, " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") {
		return evm.Address{}, x402.Errorf("token_invalid", "invalid authorization: missing bearer token")
	}
	address, _, err := h.Login.Bearer(strings.TrimSpace(token), h.Now())
	return address, err
}

// caller finds out who makes a request.
func (h *handler) caller(r *http.Request) (caller, error) {
	if h.Inside {
		return caller{wallet: clearing.Wallet{Role: RoleFacilitator, Scopes: Scopes}}, nil
	}
	text := r.Header.Get("X-API-Key")
	if scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " "); strings.EqualFold(scheme, "Bearer") && strings.HasPrefix(token, login.KeyPrefix) {
		text = token // from programs that can send no other header, such as Prometheus
	} else if scheme != "" {
		text = ""
	}
	if text != "" && h.Login != nil {
		k, err := h.Login.Key(r.Context(), text)
		return caller{key: &k}, err
	}
	address, err := h.bearer(r)
	if err != nil {
		return caller{}, err
	}
	w, err := h.standing(r.Context(), address)
	return caller{address: address, wallet: w}, err
}

// standing returns a wallet with its role and scopes, or why it may not log in.
func (h *handler) standing(ctx context.Context, address evm.Address) (clearing.Wallet, error) {
	w, _, err := h.House.Wallet(ctx, address)
	if err != nil {
		return w, err
	}
	h.complete(&w)
	if w.Status == clearing.WalletRevoked && !slices.Contains(h.Admins, address) {
		return w, x402.Errorf("token_invalid", "the operator has revoked %s", address).WithHint("ask the operator of the clearing house")
	}
	return w, nil
}

// complete fills in what the operator has not said.
func (h *handler) complete(w *clearing.Wallet) {
	switch {
	case slices.Contains(h.Admins, w.Address):
		w.Role = RoleAdmin
	case w.Role == "":
		w.Role = RoleUser
	}
	if len(w.Scopes) == 0 {
		w.Scopes = usualScopes
	}
}

// Grants says what wallets' logins may do, for [login.Config]. admins are in charge whatever the book says.
func Grants(house *clearing.House, admins ...evm.Address) func(context.Context, evm.Address) (login.Grant, error) {
	h := &handler{Config: Config{House: house, Admins: admins}}
	return func(ctx context.Context, address evm.Address) (login.Grant, error) {
		w, err := h.standing(ctx, address)
		return login.Grant{Role: w.Role, Scopes: w.Scopes}, err
	}
}

package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/farthing402/farthing/api/client"
	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/login"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/x402"
)

// The login as a client of 4Mica makes it: what it is shown, what it sends, what it gets, and what it says when one is wrong.
func TestSignInOverHTTP(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	key := keys[0]
	post := func(path string, body any, want int) (out map[string]any) {
		t.Helper()
		status, raw := w.as(nil, "POST", path, body)
		if status != want {
			t.Fatalf("%s: %d %s", path, status, raw)
		}
		if err := json.Unmarshal(raw, &out); err != nil {
			t.Fatal(err)
		}
		return out
	}
	signIn := func() map[string]any {
		c := post("/auth/nonce", map[string]string{"address": strings.ToUpper(key.Address().Lower())}, 200)
		siwe := c["siwe"].(map[string]any)
		message := fmt.Sprintf("%s wants you to sign in with your Ethereum account:\n%s\n\n%s\n\nURI: %s\nVersion: 1\nChain ID: %v\nNonce: %s\nIssued At: %s\nExpiration Time: %s",
			siwe["domain"], key.Address(), siwe["statement"], siwe["uri"], siwe["chainId"], c["nonce"], siwe["issuedAt"], siwe["expiration"])
		signature, err := key.Sign(t.Context(), evm.HashPersonal([]byte(message)))
		if err != nil {
			t.Fatal(err)
		}
		body := map[string]string{"address": key.Address().String(), "message": message, "signature": signature.String()}
		wrong := map[string]string{"address": body["address"], "message": message, "signature": "0x" + strings.Repeat("11", 65)}
		post("/auth/verify", wrong, 400)
		post("/auth/verify", map[string]string{"address": party(1).String(), "message": message, "signature": signature.String()}, 401)
		tokens := post("/auth/verify", body, 200)
		post("/auth/verify", body, 401) // a nonce is used once
		return tokens
	}
	tokens := signIn()
	if tokens["expires_in"] != 900.0 {
		t.Errorf("expires in %v", tokens["expires_in"])
	}
	again := post("/auth/refresh", map[string]any{"refresh_token": tokens["refresh_token"]}, 200)
	post("/auth/refresh", map[string]any{"refresh_token": tokens["refresh_token"]}, 401) // rotation
	post("/auth/refresh", map[string]any{"refresh_token": again["refresh_token"]}, 401)  // and its family
	other := signIn()
	if out := post("/auth/logout", map[string]any{"refresh_token": other["refresh_token"]}, 200); out["revoked"] != true {
		t.Errorf("logout: %v", out)
	}
	post("/auth/refresh", map[string]any{"refresh_token": other["refresh_token"]}, 401)
	for _, bad := range []string{``, `{`, `[]`, `{"address":5}`, `{"address":"0x12"}`, `{}`} {
		for _, path := range []string{"/auth/nonce", "/auth/verify"} {
			if status, _ := w.as(nil, "POST", path, bad); status != 400 {
				t.Errorf("%s with %q: %d", path, bad, status)
			}
		}
	}
}

// Defect 14: any logged-in wallet reads any user's balance, and authorization failures are 401. Here everybody reads their
// own; who is not known gets 401, and who may not 403.
func TestDefect14OneReadsOnesOwnOnly(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.sign(0, party(1), 500)
	if status, body := w.ask("POST", "/core/guarantees", s); status != 200 {
		t.Fatalf("%d %s", status, body)
	}
	digest := s.Claims.Digest(deployment.ClaimsSeparator()).String()
	key := strings.Join([]string{party(0).Lower(), party(1).String(), dollar.Lower(), s.Claims.ReqID.String()}, ":")
	w.close(true)
	if _, err := w.house.ChangeWallet(t.Context(), party(2), w.now, func(x *clearing.Wallet) error { x.Role = RoleFacilitator; return nil }); err != nil {
		t.Fatal(err)
	}
	stranger, err := evm.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	cycle := "/core/cycles/" + vectors.Certificate.Text + "/participants/" + party(0).String()
	const yes, no = 200, 403
	for _, c := range []struct {
		path                                  string
		payer, payee, facilitator, admin, any int
	}{
		{"/core/users/" + party(0).Lower() + "/assets/" + dollar.Lower(), yes, no, yes, yes, no},
		{"/core/users/" + party(0).Lower() + "/balance", yes, no, yes, yes, no},
		{"/core/recipients/" + party(1).String() + "/payments", no, yes, no, yes, no},
		{"/core/guarantees/" + digest, yes, yes, yes, yes, no},
		{"/core/guarantees/" + key, yes, yes, yes, yes, no},
		{"/core/guarantees/" + digest + "/certificate", yes, yes, yes, yes, no},
		{"/core/guarantees?payer=" + party(0).Lower(), yes, no, no, yes, no},
		{"/core/guarantees?payee=" + party(1).Lower(), no, yes, no, yes, no},
		{"/core/guarantees?payer=" + party(0).Lower() + "&payee=" + party(1).Lower(), yes, yes, no, yes, no},
		{cycle + "/statement", yes, no, no, yes, no},
		{cycle + "/clearing-proof", yes, no, yes, yes, no},
		{cycle + "/clearing-action?action=pay_net_debit", yes, no, yes, yes, no},
		{cycle + "/clearing-action?action=mark_defaulted", 400, 400, 400, 400, 400}, // open to every login, and too early
		{"/core/participants/" + party(0).Lower() + "/positions", yes, no, no, yes, no},
	} {
		for _, who := range []struct {
			name string
			key  *evm.PrivateKey
			want int
		}{{"nobody", nil, 401}, {"payer", keys[0], c.payer}, {"payee", keys[1], c.payee}, {"facilitator", keys[2], c.facilitator}, {"admin", operator, c.admin}, {"stranger", stranger, c.any}} {
			status, body := w.as(who.key, "GET", c.path, nil)
			if status != who.want {
				t.Errorf("%s as %s: %d %s, want %d", c.path, who.name, status, body, who.want)
			}
			if status == 403 && code(body) != "forbidden" || status == 401 && code(body) != "unauthorized" {
				t.Errorf("%s as %s: %s", c.path, who.name, body)
			}
		}
	}
}

// Defect 19: selling needs an operator-made row. Here a wallet that nobody has heard of is paid, signs in and reads.
func TestDefect19SellingNeedsNobodysHand(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	seller, err := evm.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	header := http.Header{"Authorization": {"Bearer " + w.token(seller)}}
	if status, _, body := w.send("POST", "/core/guarantees", header, w.sign(0, seller.Address(), 700)); status != 200 {
		t.Fatalf("%d %s", status, body)
	}
	status, body := w.as(seller, "GET", "/core/recipients/"+seller.Address().Lower()+"/payments", nil)
	var list []struct{ Amount string }
	if err := json.Unmarshal(body, &list); status != 200 || err != nil || len(list) != 1 || list[0].Amount != "0x2bc" {
		t.Errorf("%d %s", status, body)
	}
	// A token that is sent must be good, though none is needed.
	for _, bad := range []string{"Bearer x", "Basic eDp5", "Bearer", w.token(seller)} {
		status, _, body := w.send("POST", "/core/guarantees", http.Header{"Authorization": {bad}}, w.sign(0, seller.Address(), 7))
		if status != 401 || code(body) != "token_invalid" {
			t.Errorf("%q: %d %s", bad, status, body)
		}
	}
}

// A suspension counts for both sides at once, on every node; and so does its end.
func TestSuspension(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	post := func(payer int, payee evm.Address) (int, []byte) {
		return w.ask("POST", "/core/guarantees", w.sign(payer, payee, 5))
	}
	set := func(who evm.Address, suspended bool) {
		t.Helper()
		status, body := w.as(operator, "POST", "/core/users/"+who.Lower()+"/suspension", map[string]bool{"suspended": suspended})
		if status != 200 || strings.Contains(string(body), `"suspended":true`) != suspended {
			t.Fatalf("%d %s", status, body)
		}
	}
	for _, who := range []evm.Address{party(0), party(1)} {
		set(who, true)
		if status, body := post(0, party(1)); status != 403 || code(body) != "suspended" || !strings.Contains(string(body), "user suspended") {
			t.Errorf("%s suspended: %d %s", who, status, body)
		}
		set(who, false)
		if status, body := post(0, party(1)); status != 200 {
			t.Errorf("%s suspended no longer: %d %s", who, status, body)
		}
	}
	path := "/core/users/" + party(0).Lower() + "/suspension"
	for _, c := range []struct {
		key    *evm.PrivateKey
		path   string
		body   any
		status int
	}{
		{nil, path, map[string]bool{"suspended": true}, 401}, {keys[0], path, map[string]bool{"suspended": true}, 403},
		{operator, path, map[string]string{}, 400}, {operator, "/core/users/me/suspension", map[string]bool{"suspended": true}, 400},
	} {
		if status, body := w.as(c.key, "POST", c.path, c.body); status != c.status {
			t.Errorf("%s: %d %s, want %d", c.path, status, body, c.status)
		}
	}
	// A suspended wallet still reads, as it has to settle; a revoked one does not even log in.
	set(party(0), true)
	if status, body := w.as(keys[0], "GET", "/core/users/"+party(0).Lower()+"/balance", nil); status != 200 {
		t.Errorf("a suspended wallet reads: %d %s", status, body)
	}
	token := http.Header{"Authorization": {"Bearer " + w.token(keys[0])}}
	if status, body := w.as(operator, "PUT", "/core/admin/members/"+party(0).Lower(), map[string]string{"status": "revoked"}); status != 200 {
		t.Fatalf("%d %s", status, body)
	}
	if status, _, body := w.send("GET", "/core/users/"+party(0).Lower()+"/balance", token, nil); status != 401 || code(body) != "token_invalid" {
		t.Errorf("a revoked wallet reads: %d %s", status, body)
	}
}

// Whatever a token said when it was made, what the operator says now counts.
func TestRolesAreThoseOfNow(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	set := func(role string) {
		t.Helper()
		if status, body := w.as(operator, "PUT", "/core/admin/members/"+party(0).String(), map[string]string{"role": role}); status != 200 {
			t.Fatalf("%d %s", status, body)
		}
	}
	set(RoleAdmin)
	token := http.Header{"Authorization": {"Bearer " + w.token(keys[0])}}
	list := func() int { status, _, _ := w.send("GET", "/core/admin/members", token, nil); return status }
	if got := list(); got != 200 {
		t.Errorf("an admin: %d", got)
	}
	set(RoleUser)
	if got := list(); got != 403 {
		t.Errorf("an admin of before: %d", got)
	}
	if status, body := w.as(operator, "PUT", "/core/admin/members/"+operator.Address().Lower(), map[string]string{"role": "user", "status": "revoked"}); status != 200 {
		t.Fatalf("%d %s", status, body)
	}
	if status, _ := w.as(operator, "GET", "/core/admin/members", nil); status != 200 {
		t.Error("the operator has locked itself out")
	}
}

func TestMembersOfAClosedHouse(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(_ *Config, hc *clearing.Config) { hc.MembersOnly = true })
	put := func(who evm.Address, body any, want int) map[string]any {
		t.Helper()
		status, raw := w.as(operator, "PUT", "/core/admin/members/"+who.Lower(), body)
		var out map[string]any
		if err := json.Unmarshal(raw, &out); err != nil || status != want {
			t.Fatalf("%d %s", status, raw)
		}
		return out
	}
	if status, body := w.ask("POST", "/core/guarantees", w.sign(0, party(1), 5)); status != 403 || code(body) != "not_member" {
		t.Errorf("nobody is a member: %d %s", status, body)
	}
	m := put(party(0), map[string]any{"name": "Payer & Co", "contact": "x", "member": true, "limit_per_cycle": "10"}, 200)
	if m["name"] != "Payer & Co" || m["limit_per_cycle"] != "10" || m["role"] != "user" || m["status"] != "active" {
		t.Errorf("member %v", m)
	}
	put(party(1), map[string]any{"member": true}, 200)
	if status, body := w.ask("POST", "/core/guarantees", w.sign(0, party(1), 5)); status != 200 {
		t.Errorf("two members: %d %s", status, body)
	}
	if status, body := w.ask("POST", "/core/guarantees", w.sign(0, party(1), 6)); status != 400 || code(body) != "limit_per_cycle_exceeded" {
		t.Errorf("past the operator's limit: %d %s", status, body)
	}
	if m := put(party(0), map[string]any{"limit_per_cycle": nil}, 200); m["limit_per_cycle"] != nil || m["name"] != "Payer & Co" {
		t.Errorf("member %v", m)
	}
	if status, body := w.ask("POST", "/core/guarantees", w.sign(0, party(1), 600)); status != 200 {
		t.Errorf("without a limit: %d %s", status, body)
	}
	put(party(1), map[string]any{"member": false}, 200)
	if status, body := w.ask("POST", "/core/guarantees", w.sign(0, party(1), 5)); status != 403 || code(body) != "not_member" {
		t.Errorf("removed: %d %s", status, body)
	}
	for _, bad := range []any{map[string]any{"role": "king"}, map[string]any{"status": "gone"}, map[string]any{"scopes": []string{"all"}},
		map[string]any{"limit_per_cycle": "-1"}, map[string]any{"name": strings.Repeat("x", 201)}, "["} {
		put(party(2), bad, 400)
	}
	put(evm.Address{}, map[string]any{"member": true}, 400)
	if status, _ := w.as(operator, "GET", "/core/admin/members/"+party(2).Lower(), nil); status != 404 {
		t.Errorf("of whom nothing is said: %d", status)
	}
	c, err := client.New(w.server.URL, client.WithSigner(operator))
	if err != nil {
		t.Fatal(err)
	}
	list, err := c.Members(t.Context())
	if err != nil || len(list) != 2 {
		t.Errorf("members %+v, %v", list, err)
	}
	var seen int
	for cursor := ""; ; {
		_, body := w.as(operator, "GET", "/core/admin/members?limit=1&cursor="+cursor, nil)
		var page struct {
			Members []any
			Next    *string `json:"next_cursor"`
		}
		if err := json.Unmarshal(body, &page); err != nil {
			t.Fatal(err)
		}
		seen += len(page.Members)
		if page.Next == nil {
			break
		}
		cursor = *page.Next
	}
	if seen != 2 {
		t.Errorf("%d in pages of one", seen)
	}
}

// Keys are told once, kept as hashes, do what their scopes say, and end when they are revoked.
func TestAPIKeys(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	with := func(key, method, path string, body any) (int, []byte) {
		status, _, out := w.send(method, path, http.Header{"X-Api-Key": {key}}, body)
		return status, out
	}
	make := func(key string, scopes []string, want int) (id, text string) {
		t.Helper()
		body := map[string]any{"name": "ci", "scopes": scopes}
		status, raw := with(key, "POST", "/core/admin/api-keys", body)
		if key == "" {
			status, raw = w.as(operator, "POST", "/core/admin/api-keys", body)
		}
		var k struct {
			ID  string
			Key string `json:"api_key"`
		}
		if err := json.Unmarshal(raw, &k); err != nil || status != want {
			t.Fatalf("%d %s", status, raw)
		}
		return k.ID, k.Key
	}
	_, manager := make("", []string{login.ScopeKeys}, 200)
	id, suspender := make("", []string{login.ScopeSuspend}, 200)
	make(manager, []string{login.ScopeKeys}, 200)
	make(manager, []string{login.ScopeSuspend}, 403) // not more than it may itself
	make("", []string{"everything"}, 400)
	make("", nil, 400)
	suspension := "/core/users/" + party(0).Lower() + "/suspension"
	for _, c := range []struct {
		name, key, method, path string
		body                    any
		status                  int
		code                    string
	}{
		{"its scope", suspender, "POST", suspension, map[string]bool{"suspended": true}, 200, ""},
		{"another scope", suspender, "GET", "/core/admin/api-keys", nil, 403, "forbidden"},
		{"no wallet", manager, "GET", "/core/users/" + party(0).Lower() + "/balance", nil, 403, "forbidden"},
		{"no key", "ak_x", "GET", "/core/admin/api-keys", nil, 401, "api_key_invalid"},
		{"the list", manager, "GET", "/core/admin/api-keys", nil, 200, ""},
		{"end of another", manager, "POST", "/core/admin/api-keys/" + id + "/revoke", map[string]any{}, 200, ""},
		{"after its end", suspender, "POST", suspension, map[string]bool{"suspended": false}, 401, "api_key_invalid"},
		{"end of none", manager, "POST", "/core/admin/api-keys/zz/revoke", nil, 404, "not_found"},
	} {
		status, body := with(c.key, c.method, c.path, c.body)
		if status != c.status || c.code != "" && code(body) != c.code {
			t.Errorf("%s: %d %s, want %d %s", c.name, status, body, c.status, c.code)
		}
		if c.method == "GET" && (strings.Contains(string(body), suspender[3:]) || strings.Contains(string(body), manager[3:])) {
			t.Errorf("%s tells a key: %s", c.name, body)
		}
	}
}

// The client signs in by itself, refreshes before its token ends, and signs in again when it is refused.
func TestClientSignsInByItself(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c, err := client.New(w.server.URL, client.WithSigner(keys[0]), client.WithTimeout(timeoutForTests))
	if err != nil {
		t.Fatal(err)
	}
	balance := func() {
		t.Helper()
		if b, err := c.Balance(t.Context(), party(0), dollar); err != nil || b.Collateral != money.Units(1_000_000) {
			t.Errorf("%+v, %v", b, err)
		}
	}
	balance()
	w.setTime(signed + 17*60) // the token is over by the house's clock, not by the client's
	balance()
	w.setTime(signed + 40*24*3600) // and the refresh token, too
	balance()
	if _, err := c.Balance(t.Context(), party(1), dollar); codeOf(err) != "forbidden" {
		t.Errorf("another's balance: %v", err)
	}
	nobody, err := client.New(w.server.URL)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := nobody.Balance(t.Context(), party(0), dollar); codeOf(err) != "unauthorized" {
		t.Errorf("without a key: %v", err)
	}
}

// A clearing house that asks for a login elsewhere, to use it there, gets no signature.
func TestClientSignsForItsOwnClearingHouseOnly(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	asked := 0
	victim := spyingSigner{keys[0], &asked}
	w.login.Config.Domain, w.login.Config.URI = "bank.example.org", "https://bank.example.org"
	c, err := client.New(w.server.URL, client.WithSigner(victim))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Balance(t.Context(), party(0), dollar); codeOf(err) != "login_invalid" || asked != 0 {
		t.Errorf("%v, signed %d times", err, asked)
	}
	// This machine's own names are one.
	w.login.Config.Domain = strings.Replace(strings.TrimPrefix(w.server.URL, "http://"), "127.0.0.1", "localhost", 1)
	w.login.Config.URI = "http://" + w.login.Config.Domain
	if _, err := c.Balance(t.Context(), party(0), dollar); err != nil || asked != 1 {
		t.Errorf("%v, signed %d times", err, asked)
	}
}

type spyingSigner struct {
	evm.Signer
	asked *int
}

// Sign implements [evm.Signer].
func (s spyingSigner) Sign(ctx context.Context, digest evm.Hash) (evm.Signature, error) {
	*s.asked++
	return s.Signer.Sign(ctx, digest)
}

func codeOf(err error) string {
	var e *x402.Error
	if errors.As(err, &e) {
		return e.Code
	}
	return fmt.Sprint(err)
}

package api

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/money"
)

type pageOfGuarantees struct {
	Guarantees []struct {
		Digest  evm.Hash
		Status  string
		Payable money.Amount
	}
	Next *string `json:"next_cursor"`
}

// pages walks along a list with pages of two, and returns the digests in the order in which they came.
func pages(w *world, as *evm.PrivateKey, q url.Values, between func()) (digests []string) {
	w.Helper()
	q.Set("limit", "2")
	for {
		status, body := w.as(as, "GET", "/core/guarantees?"+q.Encode(), nil)
		var page pageOfGuarantees
		if err := json.Unmarshal(body, &page); err != nil || status != 200 || len(page.Guarantees) > 2 {
			w.Fatalf("%d %s", status, body)
		}
		for _, g := range page.Guarantees {
			digests = append(digests, g.Digest.String())
		}
		if page.Next == nil {
			return digests
		}
		q.Set("cursor", *page.Next)
		if between != nil {
			between()
		}
	}
}

// A list is walked along in pages that stay where they are while guarantees come in; each is seen once, the newest first.
func TestListsInPages(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var all, toOne, fromOne []string // the newest first
	digestOf := func(s guarantee.Signed) string { return s.Claims.Digest(deployment.ClaimsSeparator()).String() }
	post := func(payer, payee int) {
		s := w.sign(payer, party(payee), 10)
		postOK(w, s)
		d := digestOf(s)
		if payer == 0 {
			all = append([]string{d}, all...)
		}
		if payee == 1 {
			toOne = append([]string{d}, toOne...)
		}
		if payer == 0 && payee == 1 {
			fromOne = append([]string{d}, fromOne...)
		}
	}
	for i := range 3 {
		post(0, 1)
		post(0, 2)
		post(1, 2)
		if i == 1 { // the next ones are of another cycle
			w.setTime(start + schedule.Length + 5)
		}
	}
	same := func(what string, got, want []string) {
		t.Helper()
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s:\n got %v\nwant %v", what, got, want)
		}
	}
	payer, payee := party(0).Lower(), party(1).String()
	want, wantTo, wantBoth := all, toOne, fromOne
	same("of a payer, while more come", pages(w, keys[0], url.Values{"payer": {payer}}, func() { post(0, 1) }), want)
	want = all
	same("of a payee", pages(w, keys[1], url.Values{"payee": {payee}, "asset": {"USDC"}}, nil), toOne)
	same("of both", pages(w, keys[1], url.Values{"payee": {payee}, "payer": {payer}}, nil), fromOne)
	same("of a cycle, for the operator", pages(w, operator, url.Values{"cycle": {vectors.Certificate.Text}, "payee": {payee}}, nil), wantTo[1:])
	same("of a payer in a cycle", pages(w, keys[0], url.Values{"cycle": {vectors.Certificate.ID}, "payer": {payer}, "payee": {payee}}, nil), wantBoth[1:])
	same("in a state", pages(w, keys[0], url.Values{"payer": {payer}, "status": {"finalized_payable"}}, nil), want)
	same("in a state that none is in", pages(w, keys[0], url.Values{"payer": {payer}, "status": {"SETTLED"}}, nil), nil)
	for _, bad := range []string{"", "payer=me", "payer=" + payer + "&status=gone", "payer=" + payer + "&cursor=x", "payer=" + payer + "&cursor=MC4w",
		"payer=" + payer + "&limit=501", "payer=" + payer + "&asset=EUR"} {
		if status, body := w.as(keys[0], "GET", "/core/guarantees?"+bad, nil); status != 400 || code(body) != "malformed_request" {
			t.Errorf("%q: %d %s", bad, status, body)
		}
	}
	if status, body := w.as(keys[0], "GET", "/core/guarantees?payer="+payer+"&cycle=yesterday", nil); status != 404 || code(body) != "cycle_unknown" {
		t.Errorf("%d %s", status, body)
	}
}

// The statement says what a cycle came to, in figures that fit together, line by line, and as a table that adds up to them.
func TestStatementAddsUp(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	out, in := w.sign(0, party(1), 1000), w.sign(1, party(0), 300)
	kept := w.sign(0, party(2), 50)
	for _, s := range []guarantee.Signed{out, in, kept} {
		postOK(w, s)
	}
	note, err := guarantee.SignNote(t.Context(), keys[1], deployment, guarantee.Note{Digest: out.Claims.Digest(deployment.ClaimsSeparator()), Amount: money.Units(600)})
	if err != nil {
		t.Fatal(err)
	}
	if status, body := w.ask("POST", "/core/notes", note); status != 200 {
		t.Fatalf("%d %s", status, body)
	}
	path := "/core/cycles/" + vectors.Certificate.Text + "/participants/" + party(0).Lower() + "/statement"
	type statement struct {
		Preliminary   bool
		OutGuaranteed money.Amount `json:"out_guaranteed"`
		InGuaranteed  money.Amount `json:"in_guaranteed"`
		Out, In, Fees money.Amount
		OutRefunded   money.Amount `json:"out_refunded"`
		InRefunded    money.Amount `json:"in_refunded"`
		Net           *struct {
			Role, Settlement string
			Amount           money.Amount
		}
		Entries []struct{ Direction string }
		Total   int `json:"entries_total"`
	}
	read := func(query string) (s statement) {
		t.Helper()
		status, body := w.as(keys[0], "GET", path+query, nil)
		if err := json.Unmarshal(body, &s); err != nil || status != 200 {
			t.Fatalf("%d %s", status, body)
		}
		return s
	}
	s := read("")
	if !s.Preliminary || s.Net != nil || s.OutGuaranteed != money.Units(1050) || s.Out != money.Units(650) || s.OutRefunded != money.Units(400) ||
		s.InGuaranteed != money.Units(300) || s.In != money.Units(300) || !s.InRefunded.IsZero() || len(s.Entries) != 3 {
		t.Errorf("%+v", s)
	}
	w.close(true)
	if s = read("?limit=1&skip=1"); s.Preliminary || s.Net == nil || s.Net.Role != "NET_DEBTOR" || s.Net.Amount != money.Units(350) || s.Net.Settlement != "UNPAID" ||
		len(s.Entries) != 1 || s.Total != 3 {
		t.Errorf("%+v", s)
	}
	for _, how := range []struct {
		query  string
		header http.Header
	}{{"?format=csv", http.Header{}}, {"", http.Header{"Accept": {"text/csv"}}}} {
		how.header.Set("Authorization", "Bearer "+w.token(keys[0]))
		status, h, body := w.send("GET", path+how.query, how.header, nil)
		rows, err := csv.NewReader(strings.NewReader(string(body))).ReadAll()
		if status != 200 || err != nil || len(rows) != 4 || !strings.HasPrefix(h.Get("Content-Type"), "text/csv") {
			t.Fatalf("%d %s, %v", status, body, err)
		}
		sums := map[string]uint64{}
		for _, row := range rows[1:] {
			for i, column := range []string{"guaranteed", "captured", "refunded"} {
				a, _ := money.ParseAmount(row[5+i])
				n, _ := a.Uint64()
				sums[row[1]+" "+column] += n
			}
		}
		if fmt.Sprint(sums) != "map[in captured:300 in guaranteed:300 in refunded:0 out captured:650 out guaranteed:1050 out refunded:400]" {
			t.Errorf("sums %v of\n%s", sums, body)
		}
	}
	if status, body := w.as(keys[0], "GET", path+"?format=pdf", nil); status != 400 {
		t.Errorf("%d %s", status, body)
	}
	// And the same cycle among the participant's positions.
	status, body := w.as(keys[0], "GET", "/core/participants/"+party(0).Lower()+"/positions", nil)
	var p struct {
		Positions []struct {
			Role   string
			Amount money.Amount
			Text   string `json:"cycle_id_text"`
		}
	}
	if err := json.Unmarshal(body, &p); err != nil || status != 200 || len(p.Positions) != 1 || p.Positions[0].Amount != money.Units(350) || p.Positions[0].Text != vectors.Certificate.Text {
		t.Errorf("%d %s", status, body)
	}
}

// The deadlines are told by name, before and after the cycle is sealed.
func TestTimings(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	postOK(w, w.sign(0, party(1), 5))
	read := func(path string) (a map[string]any) {
		t.Helper()
		status, body := w.as(nil, "GET", path, nil)
		if err := json.Unmarshal(body, &a); err != nil || status != 200 {
			t.Fatalf("%s: %d %s", path, status, body)
		}
		return a
	}
	cutoff := float64(start + schedule.Length + schedule.Cutoff)
	for _, path := range []string{"/core/cycles/current/timings?asset=USDC", "/core/cycles/" + vectors.Certificate.Text + "/timings"} {
		a := read(path)
		if a["period_start"] != float64(start) || a["period_end"] != float64(start+schedule.Length) || a["resolution_cutoff"] != cutoff ||
			a["clearing_commit_deadline"] != cutoff+float64(schedule.Post) || a["payment_submission_deadline"] != nil ||
			a["payment_finality_deadline_latest"] != cutoff+float64(schedule.Post+schedule.Challenge) || a["now"] != float64(signed) {
			t.Errorf("%s: %v", path, a)
		}
	}
	w.close(true)
	a := read("/core/cycles/" + vectors.Certificate.ID + "/timings")
	if a["status"] != "PAYMENT_WINDOW_OPEN" || a["payment_submission_deadline"] != cutoff+60+float64(schedule.Challenge) || a["payment_finality_deadline"] != a["payment_submission_deadline"] {
		t.Errorf("%v", a)
	}
}

// Cycles and positions go on behind a cursor.
func TestCyclesInPages(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for i := range uint64(4) {
		w.setTime(start + i*schedule.Length)
		postOK(w, w.sign(0, party(1), 5))
	}
	var starts []uint64
	for cursor := ""; ; {
		_, body := w.as(nil, "GET", "/core/cycles?asset=USDC&limit=3&cursor="+cursor, nil)
		var page struct {
			Cycles []struct {
				Start uint64 `json:"period_start"`
			}
			Next *string `json:"next_cursor"`
		}
		if err := json.Unmarshal(body, &page); err != nil {
			t.Fatal(err)
		}
		for _, c := range page.Cycles {
			starts = append(starts, (c.Start-start)/schedule.Length)
		}
		if page.Next == nil {
			break
		}
		cursor = *page.Next
	}
	if fmt.Sprint(starts) != "[3 2 1 0]" {
		t.Errorf("cycles %v", starts)
	}
	if list, next, err := w.house.PositionsOf(t.Context(), dollar, party(0), 0, 3); err != nil || len(list) != 0 || next != start+schedule.Length {
		t.Errorf("positions before netting: %v, %d, %v", list, next, err)
	}
	if status, body := w.as(nil, "GET", "/core/cycles?asset=USDC&cursor=x", nil); status != 400 {
		t.Errorf("%d %s", status, body)
	}
}

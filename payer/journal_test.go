package payer

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/x402"
)

func testRow(id string, units uint64) row {
	return row{ID: id, State: Reserved, At: noon, Seller: "s", Network: "eip155:31337", Decimals: 6, Amount: money.Units(units), Payee: sellerKey.Address()}
}

func sent(r row) row {
	r.State, r.Digest, r.Payment = Sent, evm.Keccak256([]byte(r.ID)), "x"
	return r
}

func openTest(t *testing.T, path string, now *time.Time) *journal {
	t.Helper()
	l, err := Budget{PerCall: "$1", PerDay: "$1"}.limits()
	if err != nil {
		t.Fatal(err)
	}
	j, err := openJournal(path, l, func() time.Time { return *now }, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.mu.Lock(); j.close(); j.mu.Unlock() })
	return j
}

// leftUnits is what the day's dollar still has, in millionths.
func leftUnits(t *testing.T, j *journal) string {
	t.Helper()
	r, err := j.budget()
	if err != nil {
		t.Fatal(err)
	}
	return dollars(*r.day).String()
}

// A payment that arrives anywhere is in the file already.
func TestPaymentIsOnDiskBeforeItLeaves(t *testing.T) {
	t.Parallel()
	path := journalFile(t)
	s := &seller{}
	s.answer = func(w http.ResponseWriter, _ *http.Request, p payment) bool {
		b, err := os.ReadFile(path)
		if err != nil || !bytes.Contains(b, []byte(p.header)) || !bytes.HasSuffix(b, []byte("\n")) {
			t.Errorf("not in the journal: %v", err)
		}
		return false
	}
	s.start(t)
	p := newPayer(t, inFile(path))
	if _, _, err := get(p, s.url); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

// A crash may tear the last line anywhere. Whatever is left of it, the lines before it count and new ones follow.
func TestTornLastLine(t *testing.T) {
	t.Parallel()
	now := noon
	whole := journalFile(t)
	j := openTest(t, whole, &now)
	for _, r := range []row{testRow("a", 100_000), sent(testRow("a", 100_000)), testRow("b", 200_000), sent(testRow("b", 200_000))} {
		if err := j.record(r, true); err != nil {
			t.Fatal(err)
		}
	}
	content, err := os.ReadFile(whole)
	if err != nil {
		t.Fatal(err)
	}
	last := bytes.LastIndexByte(content[:len(content)-1], '\n') + 1
	for cut := last; cut < len(content); cut += 7 {
		path := journalFile(t)
		if err := os.WriteFile(path, content[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		j := openTest(t, path, &now)
		if got := leftUnits(t, j); got != "$0.70" { // b is reserved still
			t.Fatalf("cut at %d: %s left", cut, got)
		}
		if err := j.record(sent(testRow("c", 300_000)), true); err != nil {
			t.Fatal(err)
		}
		if rows, err := openTest(t, path, &now).rows(); err != nil || len(rows) != 3 || rows[1].State != Reserved || rows[2].ID != "c" {
			t.Fatalf("cut at %d: %+v, %v", cut, rows, err)
		}
	}
}

// A file that is no journal, or that others may read, is refused rather than mended.
func TestUnusableFiles(t *testing.T) {
	t.Parallel()
	now := noon
	good := `{"id":"a","state":"sent","at":"2026-01-01T12:00:00Z","amount":"1","charged":"0"}` + "\n"
	for name, test := range map[string]struct {
		content string
		mode    os.FileMode
	}{
		"garbage in the middle": {good + "garbage\n" + good, 0o600},
		"a line without an id":  {good + "{}\n", 0o600},
		"a negative amount":     {strings.Replace(good, `"1"`, `"-1"`, 1), 0o600},
		"readable by others":    {good, 0o644},
		"writable by others":    {good, 0o620},
	} {
		path := journalFile(t)
		if err := os.WriteFile(path, []byte(test.content), test.mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, test.mode); err != nil {
			t.Fatal(err)
		}
		l, _ := Budget{PerCall: "$1"}.limits()
		_, err := openJournal(path, l, func() time.Time { return now }, slog.New(slog.DiscardHandler))
		if code(err) != "journal_unusable" {
			t.Errorf("%s: %v", name, err)
		}
		if after, _ := os.ReadFile(path); string(after) != test.content {
			t.Errorf("%s: was changed", name)
		}
	}
}

// A reservation of a process that died is given back after a while; a payment that it sent is not.
func TestReservationsRunOut(t *testing.T) {
	t.Parallel()
	now := noon
	path := journalFile(t)
	j := openTest(t, path, &now)
	if err := j.reserve(testRow("dead", 400_000), false); err != nil {
		t.Fatal(err)
	}
	if err := j.reserve(testRow("sent", 500_000), false); err != nil {
		t.Fatal(err)
	}
	if err := j.record(sent(testRow("sent", 500_000)), true); err != nil {
		t.Fatal(err)
	}
	other := openTest(t, path, &now)
	var over *overBudget
	if err := other.reserve(testRow("more", 200_000), false); !errors.As(err, &over) || leftUnits(t, other) != "$0.10" {
		t.Fatalf("%v", err)
	}
	now = now.Add(reserveLease + time.Second)
	for _, each := range []*journal{j, other, openTest(t, path, &now)} {
		if got := leftUnits(t, each); got != "$0.50" {
			t.Errorf("%s left", got)
		}
	}
	r := testRow("more", 200_000)
	r.At = now
	if err := other.reserve(r, false); err != nil {
		t.Error(err)
	}
}

// What is written anew says the same, and whoever has the old file open goes on with the new one.
func TestCompaction(t *testing.T) {
	t.Parallel()
	now := noon
	path := journalFile(t)
	j := openTest(t, path, &now)
	done := now
	for i := range 200 {
		r := testRow(fmt.Sprint("p", i), 1000)
		for _, each := range []row{r, sent(r)} {
			if err := j.record(each, false); err != nil {
				t.Fatal(err)
			}
		}
		r = sent(r)
		r.DoneAt = &done
		r.settle(&x402.SettleResponse{Success: true, Amount: "500"}, now)
		if i%10 == 0 {
			continue // its outcome is not known
		}
		if err := j.record(r, false); err != nil {
			t.Fatal(err)
		}
	}
	before, left := fileSize(t, path), leftUnits(t, j)
	want, err := j.rows()
	if err != nil {
		t.Fatal(err)
	}
	compacted := openTest(t, path, &now)
	if after := fileSize(t, path); after*2 > before || leftUnits(t, compacted) != left {
		t.Errorf("%d bytes of %d, %s left of %s", after, before, leftUnits(t, compacted), left)
	}
	got, err := compacted.rows()
	if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("rows differ, %v", err)
	}
	// The first one still has the old file open.
	if err := j.record(sent(testRow("late", 1000)), true); err != nil {
		t.Fatal(err)
	}
	if a, b := leftUnits(t, j), leftUnits(t, compacted); a != b {
		t.Errorf("%s and %s left", a, b)
	}
	if _, ok, err := compacted.find("late"); !ok || err != nil {
		t.Errorf("the other does not see it: %v", err)
	}
	// Weeks later the signatures of what is finished go, the rest stays.
	now = now.Add(2 * paymentKept)
	for i := range compactFrom { // outdated lines again
		if err := j.record(sent(testRow(fmt.Sprint("p", i%10*10), 1000)), false); err != nil {
			t.Fatal(err)
		}
	}
	rows, err := openTest(t, path, &now).rows()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rows {
		if kept := r.Payment != ""; kept != (r.State == Sent) {
			t.Errorf("%s is %s, payment kept: %v", r.ID, r.State, kept)
		}
	}
}

func fileSize(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// Compaction while others write loses nothing.
func TestCompactionUnderLoad(t *testing.T) {
	t.Parallel()
	now := noon
	path := journalFile(t)
	j := openTest(t, path, &now)
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for k := range 150 {
				r := testRow(fmt.Sprint("w", i, "-", k), 10)
				for _, each := range []row{r, sent(r), sent(r), sent(r)} {
					if err := j.record(each, k%50 == 0); err != nil {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	wg.Go(func() {
		for range 10 {
			openTest(t, path, &now)
		}
	})
	wg.Wait()
	rows, err := openTest(t, path, &now).rows()
	if err != nil || len(rows) != 600 {
		t.Errorf("%d purchases, %v", len(rows), err)
	}
	if got := leftUnits(t, j); got != "$0.994" {
		t.Errorf("%s left", got)
	}
}

// A file that cannot be written is no leave to pay.
func TestAJournalThatFails(t *testing.T) {
	t.Parallel()
	s := (&seller{}).start(t)
	p := newPayer(t, inFile(journalFile(t)))
	if _, _, err := get(p, s.url); err != nil {
		t.Fatal(err)
	}
	p.Close()
	if _, _, err := get(p, s.url); code(err) != "journal_unusable" || s.distinct() != 1 {
		t.Errorf("%v, %d signed", err, s.distinct())
	}
	if _, err := p.Left(); code(err) != "journal_unusable" {
		t.Errorf("%v", err)
	}
}

// Someone who shortens the file under a running payer takes its memory away; it stops.
func TestAJournalThatShrinks(t *testing.T) {
	t.Parallel()
	s := (&seller{}).start(t)
	path := journalFile(t)
	p := newPayer(t, inFile(path))
	if _, _, err := get(p, s.url); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 10); err != nil {
		t.Fatal(err)
	}
	if _, _, err := get(p, s.url); code(err) != "journal_unusable" || s.distinct() != 1 {
		t.Errorf("%v", err)
	}
}

func FuzzJournal(f *testing.F) {
	f.Add([]byte(`{"id":"a","state":"sent","at":"2026-01-01T12:00:00Z","amount":"1","charged":"0"}` + "\n"))
	f.Add([]byte(`{"id":"a","state":"void","decimals":255,"amount":"5","charged":"9","receipt":{}}` + "\n{"))
	f.Add([]byte(`{"id":"b","state":"charged","at":"2026-01-01T12:00:00Z","amount":"5","charged":"5","scheme":"exact","transfer":"eip3009","bundle":{"of":"x","id":"b","total":3,"valid":1,"expires":"2026-01-02T12:00:00Z"}}` +
		"\n" + `{"id":"d","state":"sent","at":"2026-01-01T12:00:00Z","amount":"0","charged":"0","draw":"b","left":99,"name":"n"}` + "\n"))
	dir := f.TempDir()
	n := 0
	f.Fuzz(func(t *testing.T, content []byte) {
		n++
		path := fmt.Sprint(dir, "/", n)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		defer os.Remove(path)
		defer os.Remove(path + ".lock")
		l, _ := Budget{PerCall: "$1", PerDay: "$1", Total: "$2"}.limits()
		j, err := openJournal(path, l, func() time.Time { return noon }, slog.New(slog.DiscardHandler))
		if err != nil {
			if code(err) != "journal_unusable" {
				t.Fatal(err)
			}
			return
		}
		defer func() { j.mu.Lock(); j.close(); j.mu.Unlock() }()
		if err := j.record(sent(testRow("new", 1)), true); err != nil {
			t.Fatal(err)
		}
		for id := range j.bundles {
			if _, err := j.stock(id); err != nil {
				t.Fatal(err)
			}
			for _, r := range []row{{ID: id, Bundle: &bundle{}}, {Draw: id}} {
				if b, ok := j.counted(r); ok && b.Left > b.Total {
					t.Fatalf("%d of %d left", b.Left, b.Total)
				}
			}
		}
		if r, ok, err := j.find("new"); err != nil || !ok || r.Amount != money.Units(1) {
			t.Fatalf("%+v, %v, %v", r, ok, err)
		}
	})
}

// A purchase of which its seller says something else later is one purchase, in a file and in memory.
func TestAPurchaseThatEndsTwiceIsListedOnce(t *testing.T) {
	t.Parallel()
	for name, path := range map[string]string{"in a file": journalFile(t), "in memory": ""} {
		now := noon
		j := openTest(t, path, &now)
		r := testRow("p_1", 500)
		for _, state := range []State{Sent, Charged, Void} {
			r.State = state
			if err := j.record(r, false); err != nil {
				t.Fatal(err)
			}
		}
		if rows, err := j.rows(); err != nil || len(rows) != 1 || rows[0].State != Void {
			t.Errorf("%s: %+v, %v", name, rows, err)
		}
	}
}

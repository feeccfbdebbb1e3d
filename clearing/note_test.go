package clearing

import (
	"errors"
	"testing"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/money"
)

func TestNotes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.deposit(0, 100)
	r := w.owe(0, 1, 60, start)
	note := func(key int, amount uint64, reason byte) guarantee.SignedNote {
		n, err := guarantee.SignNote(t.Context(), testKeys[key], deployment, guarantee.Note{Digest: r.Digest, Amount: money.Units(amount), Reason: evm.Hash{reason}})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	forged := note(1, 50, 0)
	forged.Signature[64] = 99
	unknown := note(1, 50, 0)
	unknown.Digest[0] ^= 1 // its signer is then a stranger, and its guarantee is not there
	for _, c := range []struct {
		name    string
		note    guarantee.SignedNote
		now     uint64
		want    error
		payable uint64
	}{
		{"no signature", forged, start, guarantee.ErrSignature, 60},
		{"of no guarantee", unknown, start, ErrNotFound, 60},
		{"by the payer, who would rather not pay", note(0, 0, 0), start, ErrSigner, 60},
		{"by a stranger", note(2, 0, 0), start, ErrSigner, 60},
		{"more than was guaranteed", note(1, 61, 0), start, ErrRaise, 60},
		{"as much as was guaranteed", note(1, 60, 0), start, ErrRaise, 60},
		{"less", note(1, 50, 0), start, nil, 50},
		{"the same again", note(1, 50, 0), start + 1, nil, 50},
		{"the same amount for another reason", note(1, 50, 7), start, ErrRaise, 50},
		{"more than the last note", note(1, 51, 0), start, ErrRaise, 50},
		{"less, in the frozen cycle", note(1, 40, 0), cutoff - 1, nil, 40},
		{"less, at the cutoff", note(1, 30, 0), cutoff, ErrCutoff, 40},
		{"the same again after the cutoff", note(1, 40, 0), cutoff + 500, nil, 40},
	} {
		if c.now > end && w.cycleAt(start).Status == Open {
			w.closeAt(end)
		}
		err := w.Note(t.Context(), []guarantee.SignedNote{c.note}, at(c.now))[0]
		if !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
		if a := w.account(0); units(a.Exposure()) != c.payable {
			t.Errorf("%s: exposure %s, want %d", c.name, a.Exposure(), c.payable)
		}
		w.check()
	}
	// A house whose clock is behind cannot lower what another has netted.
	w.closeAt(cutoff)
	if err := w.Note(t.Context(), []guarantee.SignedNote{note(1, 30, 0)}, at(start))[0]; !errors.Is(err, ErrCutoff) {
		t.Errorf("after netting: %v", err)
	}
}

// A payee that is paid at a cold address names a key that signs its notes: that key counts for that payee and nobody else,
// from the block that names it until the end that its removal has set.
func TestNamedSigner(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.deposit(0, 100)
	const named, cold = 5, 1
	r, other := w.owe(0, cold, 60, start), w.owe(0, 2, 40, start)
	set := func(owner int, until uint64) {
		w.chain.emit(Event{Kind: SignerSet, Account: party(owner), Asset: party(named), Time: until})
		w.mine(start + 1)
	}
	step := func(what string, digest evm.Hash, amount, now uint64, want error) {
		t.Helper()
		if err := w.lower(digest, named, amount, now); !errors.Is(err, want) || (err == nil) != (want == nil) {
			t.Errorf("%s: %v, want %v", what, err, want)
		}
		w.check()
	}
	step("named by nobody", r.Digest, 50, start, ErrSigner)
	set(cold, Forever)
	step("named", r.Digest, 50, start+1, nil)
	step("named by another payee", other.Digest, 10, start+1, ErrSigner)
	set(0, Forever)
	step("named by the payer", other.Digest, 10, start+1, ErrSigner)
	set(cold, start+20)
	step("removed, the end still to come", r.Digest, 40, start+19, nil)
	step("removed", r.Digest, 30, start+20, ErrSigner)
	if err := w.lower(r.Digest, cold, 30, start+20); err != nil {
		t.Errorf("the payee itself: %v", err)
	}
	set(cold, Forever)
	step("named again", r.Digest, 20, start+30, nil)
	if list, err := w.Signers(t.Context(), party(cold)); err != nil || len(list) != 1 || list[0] != (Signer{party(cold), party(named), Forever}) {
		t.Errorf("%+v, %v", list, err)
	}
	// The named key signs notes and nothing else.
	stolen := w.sign(named, 3, 1, start)
	stolen.Claims.Payer = party(cold)
	if err := w.admitOne(stolen, start).Err; !errors.Is(err, guarantee.ErrSignature) {
		t.Errorf("a guarantee of the payee's, signed by the key that it named: %v", err)
	}
}

// Of notes that come together each is judged by itself, in their order.
func TestNotesTogether(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.deposit(0, 100)
	one, two := w.owe(0, 1, 50, start), w.owe(0, 2, 50, start)
	var notes []guarantee.SignedNote
	for _, n := range []struct {
		digest evm.Hash
		key    int
		amount uint64
	}{{one.Digest, 1, 30}, {two.Digest, 1, 0}, {one.Digest, 1, 40}, {two.Digest, 2, 0}, {one.Digest, 1, 10}} {
		s, err := guarantee.SignNote(t.Context(), testKeys[n.key], deployment, guarantee.Note{Digest: n.digest, Amount: money.Units(n.amount)})
		if err != nil {
			t.Fatal(err)
		}
		notes = append(notes, s)
	}
	for i, err := range w.Note(t.Context(), notes, at(start)) {
		if want := []error{nil, ErrSigner, ErrRaise, nil, nil}[i]; !errors.Is(err, want) || (err == nil) != (want == nil) {
			t.Errorf("note %d: %v, want %v", i, err, want)
		}
	}
	if a := w.account(0); units(a.Exposure()) != 10 {
		t.Errorf("exposure %s", a.Exposure())
	}
	w.check()
}

// A note that comes between the reading and the writing of a net is in the net, or the net is made again.
func TestNoteWhileNetting(t *testing.T) {
	t.Parallel()
	slow := &faultyBook{}
	w := newWorld(t, func(c *Config) { slow.Book = c.Book; c.Book = slow })
	w.deposit(0, 100)
	r := w.owe(0, 1, 60, start)
	w.closeAt(end)
	w.mine(cutoff)
	c := w.cycleAt(start)
	var n net
	if err := w.memory.Read(t.Context(), func(tx Tx) (err error) { n, err = w.computeNet(tx, c); return err }); err != nil {
		t.Fatal(err)
	}
	if err := w.lower(r.Digest, 1, 20, cutoff-1); err != nil { // a house whose clock is a second behind
		t.Fatal(err)
	}
	err := w.memory.Write(t.Context(), func(tx Tx) error { return w.applyNet(tx, &c, clocks{cutoff, cutoff}, n) })
	if !errors.Is(err, errMoved) {
		t.Errorf("an outdated net is written: %v", err)
	}
	w.closeAt(cutoff)
	if c = w.status(Committed); units(c.Total) != 20 {
		t.Errorf("%+v", c)
	}
	w.check()
}

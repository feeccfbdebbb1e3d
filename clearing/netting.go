package clearing

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"runtime"
	"slices"
	"sync"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
)

// net is what a cycle came to.
type net struct {
	positions        []Position // ascending by participant
	guarantees       uint64
	gross            money.Amount
	total            money.Amount // of net debits, and of net credits
	debtors          uint64
	root, statements evm.Hash // R and Q
}

// computeNet streams a cycle's guarantees once and nets them per participant. The outcome does not depend on their order.
func (h *House) computeNet(tx Tx, c Cycle) (net, error) {
	s, err := h.readSheet(tx, c.Ref)
	if err != nil {
		return net{}, err
	}
	n := net{guarantees: s.guarantees, gross: s.gross}
	if n.positions, err = s.positions(c, h.atLeisure); err != nil {
		return net{}, err
	}
	if err := backPositions(tx, c.Ref, n.positions); err != nil {
		return net{}, fmt.Errorf("cycle %s: %w", c.Ref, err)
	}
	var credits money.Amount
	for _, p := range n.positions {
		switch p.Role {
		case Debtor:
			n.debtors++
			n.total, _ = n.total.Add(p.Amount) // at most gross
		case Creditor:
			credits, _ = credits.Add(p.Amount)
		}
	}
	switch {
	case n.total != credits:
		return net{}, fmt.Errorf("cycle %s: net debits %s, net credits %s: %w", c.Ref, n.total, credits, ErrBroken)
	case n.total.BitLen() > amountBits:
		return net{}, fmt.Errorf("cycle %s: total %s is more than the contract can hold", c.Ref, n.total)
	}
	if len(n.positions) > 0 {
		r, q := h.fold(c.Ref, n.positions)
		n.root, n.statements = r.root(), q.root()
	}
	return n, nil
}

// sheet is a cycle's guarantees as they are netted: their hashes and amounts, each guarantee once, and what of them is
// whose. It takes about 190 bytes of memory for a guarantee.
type sheet struct {
	pages      [][]entry
	parties    []participant
	numbers    register
	guarantees uint64
	gross      money.Amount
}

// entry is one guarantee.
type entry struct {
	digest       evm.Hash
	out, in      evm.Hash // hashes in the payer's statement and in the payee's
	amount       money.Amount
	payer, payee uint32 // numbers of parties
}

// participant has entries: first those that go out, then those that come in.
type participant struct {
	address evm.Address
	out, in int // how many
	entries []ref
}

// ref is an entry in a participant's list, with the first bytes of its digest, so that sorting seldom has to look there.
type ref struct {
	first uint64
	*entry
}

func compareRefsByDigest(a, b ref) int {
	return cmp.Or(cmp.Compare(a.first, b.first), bytes.Compare(a.digest[:], b.digest[:]))
}

// readSheet reads a cycle's guarantees and hashes them on all cores while it does.
func (h *House) readSheet(tx Tx, c CycleRef) (*sheet, error) {
	type page struct {
		lines   []Line
		entries []entry
	}
	pages := make(chan page, 2*runtime.GOMAXPROCS(0))
	var hashing sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		hashing.Go(func() {
			for p := range pages {
				for i, l := range p.lines {
					if p.entries[i].hash(l.entries()); i%256 == 255 {
						h.giveWay()
					}
				}
			}
		})
	}
	s := &sheet{numbers: newRegister()}
	var old []*entry // from an older version, which kept no evidence
	err := func() error {
		defer hashing.Wait()
		defer close(pages)
		for lines, err := range tx.Lines(c) {
			if err != nil {
				return err
			}
			p := page{lines, make([]entry, len(lines))}
			for i, l := range lines {
				if err := s.add(&p.entries[i], l); err != nil {
					return fmt.Errorf("cycle %s: %w", c, err)
				}
				if l.Evidence.IsZero() {
					old = append(old, &p.entries[i])
				}
			}
			s.pages = append(s.pages, p.entries)
			pages <- p
		}
		return nil
	}()
	if err != nil {
		return nil, err
	}
	for _, e := range old {
		g, found, err := tx.GuaranteeByDigest(e.digest)
		if err != nil {
			return nil, err
		}
		if !found {
			return nil, fmt.Errorf("guarantee %s of cycle %s is gone: %w", e.digest, c, ErrBroken)
		}
		e.hash(h.entries(g))
	}
	return s, nil
}

func (e *entry) hash(out, in Entry) { e.out, e.in = out.hash(), in.hash() }

func (s *sheet) add(e *entry, l Line) error {
	sum, ok := s.gross.Add(l.Payable)
	if !ok {
		return fmt.Errorf("gross sum passes 256 bits: %w", ErrBroken)
	}
	s.gross = sum
	s.guarantees++
	e.digest, e.amount, e.payer, e.payee = l.Digest, l.Payable, s.numberOf(l.Payer), s.numberOf(l.Payee)
	s.parties[e.payer].out++
	s.parties[e.payee].in++
	return nil
}

func (s *sheet) numberOf(a evm.Address) uint32 {
	n, known := s.numbers.find(a, s.parties)
	if !known {
		s.parties = append(s.parties, participant{address: a})
		s.numbers.add(n, s.parties)
	}
	return n
}

// register finds participants by their address, in a third of the time that a map takes: two of a million guarantees are
// looked up for each while nothing else can be done.
type register struct {
	seed  maphash.Seed
	slots []uint32 // one more than the number of who is there; a power of two, at most half of them taken
}

func newRegister() register { return register{maphash.MakeSeed(), make([]uint32, 1024)} }

// slot is where the address is or belongs.
func (r *register) slot(a evm.Address, parties []participant) *uint32 {
	mask := uint64(len(r.slots) - 1)
	for i := maphash.Bytes(r.seed, a[:]); ; i++ {
		if s := &r.slots[i&mask]; *s == 0 || parties[*s-1].address == a {
			return s
		}
	}
}

// find returns the participant's number, or the one that the next participant gets.
func (r *register) find(a evm.Address, parties []participant) (n uint32, known bool) {
	if s := r.slot(a, parties); *s != 0 {
		return *s - 1, true
	}
	return uint32(len(parties)), false
}

// add takes in the participant with this number, the last one.
func (r *register) add(n uint32, parties []participant) {
	if 2*len(parties) > len(r.slots) {
		r.slots = make([]uint32, 2*len(r.slots))
		for i := range parties[:n] {
			*r.slot(parties[i].address, parties) = uint32(i) + 1
		}
	}
	*r.slot(parties[n].address, parties) = n + 1
}

// positions nets what each participant has. each is parallel, or works as it does.
func (s *sheet) positions(c Cycle, each func(int, func(int))) ([]Position, error) {
	all := make([]ref, 0, 2*s.guarantees)
	for i := range s.parties {
		p := &s.parties[i]
		from := len(all)
		all = all[:from+p.out+p.in]
		p.entries = all[from:]
		p.out, p.in = 0, p.out // where the next one goes
	}
	for _, page := range s.pages {
		for i := range page {
			e := &page[i]
			payer, payee := &s.parties[e.payer], &s.parties[e.payee]
			r := ref{binary.BigEndian.Uint64(e.digest[:]), e}
			payer.entries[payer.out] = r
			payer.out++
			payee.entries[payee.in] = r
			payee.in++
		}
	}
	slices.SortFunc(s.parties, func(a, b participant) int { return bytes.Compare(a.address[:], b.address[:]) })

	const share = 16 // participants, one after the other in the same scratch memory
	positions := make([]Position, len(s.parties))
	errs := make([]error, (len(s.parties)+share-1)/share)
	id := c.Ref.ID()
	each(len(errs), func(part int) {
		var level []sumNode
		for i := part * share; i < min((part+1)*share, len(s.parties)); i++ {
			p := &s.parties[i]
			level = p.leaves(level[:0])
			root, err := foldSums(level)
			if err != nil {
				errs[part] = fmt.Errorf("statement of %s in cycle %s: %w", p.address, c.Ref, err)
				return
			}
			positions[i] = position(uint64(i), p.address, root)
			positions[i].Statement = statementHash(id, c.Generation, p.address, root)
		}
	})
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return positions, nil
}

// leaves appends the leaves of a participant's statement in their order.
func (p *participant) leaves(level []sumNode) []sumNode {
	out, in := p.entries[:p.out], p.entries[p.out:]
	slices.SortFunc(out, compareRefsByDigest)
	slices.SortFunc(in, compareRefsByDigest)
	for _, e := range out {
		level = append(level, leafNode(Out, e.out, e.amount))
	}
	for _, e := range in {
		level = append(level, leafNode(In, e.in, e.amount))
	}
	return level
}

// position is what a participant's sums come to.
func position(index uint64, participant evm.Address, sum sumNode) Position {
	p := Position{Index: index, Participant: participant, Role: Flat, Out: sum.out, In: sum.in}
	switch sum.out.Cmp(sum.in) {
	case 1:
		p.Role = Debtor
		p.Amount, _ = sum.out.Sub(sum.in)
	case -1:
		p.Role = Creditor
		p.Amount, _ = sum.in.Sub(sum.out)
	}
	return p
}

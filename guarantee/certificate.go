package guarantee

import (
	"container/list"
	"fmt"
	"log/slog"
	"sync"

	bls "github.com/consensys/gnark-crypto/ecc/bls12-381"
	"golang.org/x/sync/singleflight"

	"github.com/farthing402/farthing/evm"
)

// Certificate is an operator's promise that claims are backed by collateral. Its JSON is
// {claims, signature, batch?: {root, index, size, siblings}}.
type Certificate struct {
	Claims    []byte   // [EncodeClaims]
	Signature [96]byte // over Claims, or over the batch's root
	Batch     *Inclusion
}

// LogValue shows a prefix only: with the payer's signature a certificate is worth money to its payee.
func (c Certificate) LogValue() slog.Value {
	return slog.StringValue(fmt.Sprintf("certificate %x…", c.Signature[:4]))
}

// batchesRemembered bounds the verifier's memory, a quarter kilobyte a batch. A batch is asked for again while its
// members are still being presented, which is seconds, so a few hundred would do.
const batchesRemembered = 1024

// Verifier checks certificates of one operator and deployment. It remembers the batches that it has verified, so one
// pairing serves a whole batch. It is safe for concurrent use.
type Verifier struct {
	key     bls.G1Affine
	domains [2]evm.Hash // of claims of version 1 and 2

	flight singleflight.Group // certificates of one batch that arrive together wait for one pairing

	mu     sync.Mutex
	known  map[batchName]*list.Element // guarded by mu; values are *knownBatch
	recent *list.List                  // guarded by mu; most recently used first
}

type batchName struct {
	domain, root, cycle evm.Hash
	size                uint32
}

type knownBatch struct {
	name      batchName
	signature [96]byte
}

// NewVerifier makes a verifier for the operator with key k. Its error matches [ErrKey].
func NewVerifier(k PublicKey, d Deployment) (*Verifier, error) {
	key, err := k.point()
	if err != nil {
		return nil, err
	}
	return &Verifier{
		key: key, domains: [2]evm.Hash{d.DomainOf(1), d.DomainOf(2)},
		known: make(map[batchName]*list.Element), recent: list.New(),
	}, nil
}

// Verify checks that cert certifies exactly want, and returns the cycle that it names; whether that cycle may still be
// open is the caller's to know. It checks in order the encoding and version, the domain, every field, the inclusion
// proof, and last, because it costs most, the signature. Errors match [ErrCertificate], [ErrForeign], [ErrMismatch] or
// [ErrProof].
func (v *Verifier) Verify(cert Certificate, want Claims) (cycle evm.Hash, err error) {
	domain, cycle, got, err := DecodeClaims(cert.Claims)
	if err != nil {
		return evm.Hash{}, err
	}
	if domain != v.domains[got.Version()-1] {
		return evm.Hash{}, fmt.Errorf("certificate of domain %s: %w", domain.Short(), ErrForeign)
	}
	if err := got.compare(want); err != nil {
		return evm.Hash{}, fmt.Errorf("certificate: %w", err)
	}
	if cert.Batch == nil {
		err = verifySignature(v.key, cert.Claims, cert.Signature)
	} else {
		if err := cert.Batch.check(batchLeaf(cert.Claims)); err != nil {
			return evm.Hash{}, fmt.Errorf("certificate: %w", err)
		}
		err = v.verifyBatch(batchName{domain, cert.Batch.Root, cycle, cert.Batch.Size}, cert.Signature)
	}
	if err != nil {
		return evm.Hash{}, fmt.Errorf("%w: %w", ErrCertificate, err)
	}
	return cycle, nil
}

func (v *Verifier) verifyBatch(name batchName, signature [96]byte) error {
	if known, ok := v.recall(name); ok {
		// A key has one signature for a message and a signature one encoding, so any other is wrong.
		if known != signature {
			return errPairing
		}
		return nil
	}
	message := batchMessage(name.domain, name.root, name.cycle, name.size)
	// The signature is part of the key: a false certificate must not answer for a true one.
	_, err, _ := v.flight.Do(string(message[:])+string(signature[:]), func() (any, error) {
		err := verifySignature(v.key, message[:], signature)
		if err == nil {
			v.remember(name, signature)
		}
		return nil, err
	})
	return err
}

func (v *Verifier) recall(name batchName) (signature [96]byte, ok bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	e, ok := v.known[name]
	if !ok {
		return signature, false
	}
	v.recent.MoveToFront(e)
	return e.Value.(*knownBatch).signature, true
}

// remember keeps a verified batch and forgets the one unused for longest. Only what verified gets in, so nobody but the
// operator can crowd others out.
func (v *Verifier) remember(name batchName, signature [96]byte) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if _, ok := v.known[name]; ok {
		return
	}
	v.known[name] = v.recent.PushFront(&knownBatch{name, signature})
	if v.recent.Len() > batchesRemembered {
		oldest := v.recent.Remove(v.recent.Back()).(*knownBatch)
		delete(v.known, oldest.name)
	}
}

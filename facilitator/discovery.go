package facilitator

import (
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"time"

	"github.com/farthing402/farthing/x402"
)

// Catalogue keeps what was seen sold, JSON by name. Implementations are safe for concurrent use.
type Catalogue interface {
	Put(ctx context.Context, name string, item []byte, at time.Time) error
	// List returns the items with their names, in the order in which they were first seen.
	List(ctx context.Context) (names []string, items [][]byte, err error)
}

// resourcesMax is how many resources are kept: anybody who pays himself a cent can list one.
const resourcesMax = 10_000

// entry is what is kept of a resource: an item of the answer, with every way to pay that a payment showed.
type entry = x402.Discovered

// list takes the resource of a verified payment into the catalogue, if its seller wants that, and says so.
func (h *handler) list(ctx context.Context, p x402.Payment, r x402.Requirements) (x402.ExtensionStatus, bool) {
	if h.f.Catalogue == nil {
		return x402.ExtensionStatus{}, false
	}
	l, found, err := p.Listed()
	switch {
	case !found:
		return x402.ExtensionStatus{}, false
	case err != nil:
		return x402.ExtensionStatus{Status: "rejected", RejectedReason: err.Error()}, true
	}
	h.listing.Lock()
	defer h.listing.Unlock()
	all, err := h.entries(ctx)
	if err == nil {
		err = h.put(ctx, all, l, r)
	}
	if err != nil {
		h.f.Log.Warn("resource not listed", "resource", clip(l.Resource), "error", err)
		return x402.ExtensionStatus{Status: "rejected", RejectedReason: "the catalogue takes nothing now"}, true
	}
	return x402.ExtensionStatus{Status: "success"}, true
}

// relist is how long an entry that says the same is not written again.
const relist = 10 * time.Minute

// put writes an entry; listing is held.
func (h *handler) put(ctx context.Context, all map[string]entry, l x402.Listing, r x402.Requirements) error {
	now := h.f.Now().UTC()
	e := entry{Resource: l.Resource, Type: l.Type, X402Version: 2, LastUpdated: now.Format(time.RFC3339), Metadata: map[string]json.RawMessage{}}
	old, known := all[l.Key()]
	if !known && len(all) >= resourcesMax {
		return x402.Errorf("settlement_busy", "the catalogue is full")
	}
	r.Extra = maps.Clone(r.Extra)
	delete(r.Extra, "settleWithin") // between seller and facilitator
	e.Accepts = []x402.Requirements{r}
	for _, other := range old.Accepts { // other ways to pay for the same stay, until they are seen changed
		if (other.Scheme != r.Scheme || other.Network != r.Network || other.Asset != r.Asset) && len(e.Accepts) < 10 {
			e.Accepts = append(e.Accepts, other)
		}
	}
	bazaar, err := json.Marshal(map[string]json.RawMessage{x402.BazaarKey: l.Info})
	if err != nil {
		return err
	}
	e.Metadata["extensions"] = bazaar
	for name, value := range map[string]any{
		"method": l.Method, "tool": l.Tool, "routeTemplate": l.RouteTemplate, "description": l.Service.Description, "mimeType": l.Service.MimeType,
		"serviceName": l.Service.ServiceName, "tags": l.Service.Tags, "iconUrl": l.Service.IconURL,
	} {
		text, err := json.Marshal(value)
		if err != nil {
			return err
		}
		if s := string(text); s != `""` && s != "null" {
			e.Metadata[name] = text
		}
	}
	if seen, err := time.Parse(time.RFC3339, old.LastUpdated); known && err == nil && now.Sub(seen) < relist {
		same := e
		same.LastUpdated = old.LastUpdated
		a, errA := json.Marshal(same)
		b, errB := json.Marshal(old)
		if errA == nil && errB == nil && string(a) == string(b) {
			return nil
		}
	}
	text, err := json.Marshal(e)
	if err != nil {
		return err
	}
	if err := h.f.Catalogue.Put(ctx, l.Key(), text, now); err != nil {
		return err
	}
	if !known {
		h.order = append(h.order, l.Key())
	}
	all[l.Key()] = e
	return nil
}

// entries returns the catalogue, which is read once; listing is held.
func (h *handler) entries(ctx context.Context) (map[string]entry, error) {
	if h.catalogue != nil {
		return h.catalogue, nil
	}
	names, items, err := h.f.Catalogue.List(ctx)
	if err != nil {
		return nil, err
	}
	all := make(map[string]entry, len(names))
	for i, item := range items {
		var e entry
		if err := json.Unmarshal(item, &e); err != nil {
			return nil, err
		}
		all[names[i]] = e
	}
	h.catalogue, h.order = all, names
	return all, nil
}

func (h *handler) resources(w http.ResponseWriter, r *http.Request) error {
	query, refused := x402.ParseDiscoveryQuery(r.URL.Query())
	if refused != nil {
		return refused
	}
	var list []entry
	if h.f.Catalogue != nil {
		h.listing.Lock()
		defer h.listing.Unlock()
		all, err := h.entries(r.Context())
		if err != nil {
			return x402.Errorf("book_unavailable", "read the catalogue: %w", err)
		}
		for _, name := range h.order {
			list = append(list, all[name])
		}
	}
	return write(w, query.Page(list))
}

package x402

import (
	"context"
	"encoding/json"
	"time"
)

// Discovered is an item of a facilitator's /discovery/resources: something that is sold, as a payment for it said.
type Discovered struct {
	Resource    string          `json:"resource"` // URL
	Type        string          `json:"type"`     // "http" or "mcp"
	X402Version int             `json:"x402Version"`
	Accepts     []Requirements  `json:"accepts"`
	LastUpdated time.Time       `json:"lastUpdated"`
	Metadata    json.RawMessage `json:"metadata,omitempty"`
}

// Tool returns the name of the tool that an item of type mcp is; "" for others.
func (d Discovered) Tool() string {
	var m struct {
		Input struct {
			Tool string `json:"tool"`
		} `json:"input"`
	}
	if d.Type != "mcp" || json.Unmarshal(d.Metadata, &m) != nil {
		return ""
	}
	return m.Input.Tool
}

// Catalogue keeps what a facilitator has seen sold. Implementations are safe for concurrent use.
type Catalogue interface {
	// Put takes an item in, in place of what was known of the same type, resource and tool.
	Put(ctx context.Context, item Discovered) error
	// List returns the items of a type, or all for "", in the order in which they were first seen.
	List(ctx context.Context, kind string) ([]Discovered, error)
}

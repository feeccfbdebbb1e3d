package client

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
)

// Member is what the operator says of an address.
type Member struct {
	Address   evm.Address   `json:"address"`
	Name      string        `json:"name"`
	Contact   string        `json:"contact"`
	Role      string        `json:"role"`
	Scopes    []string      `json:"scopes"`
	Status    string        `json:"status"` // active, suspended, revoked
	Member    bool          `json:"member"`
	Limit     *money.Amount `json:"limit_per_cycle"` // smallest units; nil: none
	UpdatedAt int64         `json:"updated_at"`      // unix seconds
}

// MemberChange says something of an address. What is nil stays as it is. A limit of null is none.
type MemberChange struct {
	Name    *string         `json:"name,omitempty"`
	Contact *string         `json:"contact,omitempty"`
	Role    *string         `json:"role,omitempty"`
	Scopes  *[]string       `json:"scopes,omitempty"`
	Status  *string         `json:"status,omitempty"`
	Member  *bool           `json:"member,omitempty"`
	Limit   json.RawMessage `json:"limit_per_cycle,omitempty"`
}

// Members returns all of whom the operator has said something. It is for admins.
func (c *Client) Members(ctx context.Context) (all []Member, err error) {
	for cursor := ""; ; {
		var page struct {
			Members []Member `json:"members"`
			Next    *string  `json:"next_cursor"`
		}
		if err := c.getOwn(ctx, "/core/admin/members?"+url.Values{"cursor": {cursor}}.Encode(), &page); err != nil {
			return nil, err
		}
		all = append(all, page.Members...)
		if page.Next == nil || *page.Next == cursor {
			return all, nil
		}
		cursor = *page.Next
	}
}

// PutMember changes what the operator says of an address. It is for admins.
func (c *Client) PutMember(ctx context.Context, address evm.Address, change MemberChange) (m Member, err error) {
	err = c.own(ctx, http.MethodPut, "/core/admin/members/"+address.Lower(), change, &m)
	return m, err
}

// Suspend keeps an address from promising and being promised anything, or ends that. It is for admins.
func (c *Client) Suspend(ctx context.Context, address evm.Address, suspended bool) error {
	var answer struct{}
	return c.own(ctx, http.MethodPost, "/core/users/"+address.Lower()+"/suspension", map[string]bool{"suspended": suspended}, &answer)
}

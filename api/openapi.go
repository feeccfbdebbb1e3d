package api

import (
	_ "embed"
	"encoding/json"
	"net/http"
	"sync"

	"go.yaml.in/yaml/v3"
)

// openAPIText describes every route.
//
//go:embed openapi.yaml
var openAPIText []byte

// openAPIJSON is the description as it is served.
var openAPIJSON = sync.OnceValues(func() ([]byte, error) {
	var doc any
	if err := yaml.Unmarshal(openAPIText, &doc); err != nil {
		return nil, err
	}
	return json.Marshal(doc)
})

func (h *handler) openAPI(*http.Request) (any, error) {
	text, err := openAPIJSON()
	return page{status: http.StatusOK, kind: "application/json", body: text}, err
}

package bundle

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// decode parses config.json. Errors say where in the file.
func decode(data []byte) (*specs.Spec, error) {
	var spec *specs.Spec
	err := json.Unmarshal(data, &spec)
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		return nil, fmt.Errorf("%s:%s: %w", configName, position(data, syntax.Offset), err)
	case errors.As(err, &kind) && kind.Field == "":
		return nil, fmt.Errorf("%s:%s: %s where an object belongs", configName, position(data, kind.Offset), kind.Value)
	case errors.As(err, &kind):
		return nil, fmt.Errorf("%s:%s: %s: %s where %s belongs",
			configName, position(data, kind.Offset), kind.Field, kind.Value, kind.Type)
	case err != nil:
		return nil, fmt.Errorf("%s: %w", configName, err)
	case spec == nil:
		return nil, fmt.Errorf("%s: config cannot be null", configName)
	}
	return spec, nil
}

// position turns an offset in bytes into line:column, both from 1.
func position(data []byte, offset int64) string {
	before := data[:min(int(offset), len(data))]
	line := bytes.Count(before, []byte("\n")) + 1
	column := len(before) - bytes.LastIndexByte(before, '\n') - 1
	return fmt.Sprintf("%d:%d", line, max(column, 1))
}

// unknownProperties lists, sorted, the names in data for which specs.Spec has
// no field. data is valid JSON.
func unknownProperties(data []byte) []string {
	var v any
	if err := json.Unmarshal(data, &v); err != nil {
		return nil
	}
	var names []string
	walkUnknown("", v, reflect.TypeFor[specs.Spec](), &names)
	slices.Sort(names)
	return slices.Compact(names)
}

func walkUnknown(path string, v any, t reflect.Type, names *[]string) {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch v := v.(type) {
	case []any:
		if t.Kind() != reflect.Slice {
			return
		}
		for _, e := range v {
			walkUnknown(path+"[]", e, t.Elem(), names)
		}
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(v)) {
			name := strings.TrimPrefix(path+"."+key, ".")
			if t.Kind() == reflect.Map {
				walkUnknown(name, v[key], t.Elem(), names)
				continue
			}
			if t.Kind() != reflect.Struct {
				return
			}
			if field, ok := jsonField(t, key); ok {
				walkUnknown(name, v[key], field, names)
			} else {
				*names = append(*names, name)
			}
		}
	}
}

// jsonField finds the type of the field of struct t that encoding/json would
// fill from key.
func jsonField(t reflect.Type, key string) (reflect.Type, bool) {
	for _, f := range reflect.VisibleFields(t) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if !f.Anonymous && strings.EqualFold(name, key) {
			return f.Type, true
		}
	}
	return nil, false
}

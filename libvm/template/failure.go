//go:build linux

package template

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"
)

// failureFile is where a store keeps why the last template could not be made, or
// not be cloned.
const failureFile = "failure.json"

// Failure is why a template could not be made, or not be cloned.
type Failure struct {
	Key   string    `json:"key"`
	Time  time.Time `json:"time"`
	Error string    `json:"error"`
}

// LastFailure returns nil if the last template that was to be made was made, and
// every one could be cloned since.
func (s Store) LastFailure() (*Failure, error) {
	root, err := s.open(false)
	if errors.Is(err, ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer root.Close()
	data, err := root.ReadFile(failureFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("templates: %w", err)
	}
	var f Failure
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, fmt.Errorf("templates: %s: %w", failureFile, err)
	}
	return &f, nil
}

// noteFailure keeps cause for LastFailure; nil forgets.
func (s Store) noteFailure(key string, cause error) error {
	root, err := s.open(false)
	if err != nil {
		return err
	}
	defer root.Close()
	if cause == nil {
		if err := root.Remove(failureFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("templates: %w", err)
		}
		return nil
	}
	data, err := json.Marshal(Failure{Key: key, Time: time.Now().UTC(), Error: cause.Error()})
	if err == nil {
		err = root.WriteFile(failureFile, data, 0o600)
	}
	if err != nil {
		_ = root.Remove(failureFile) // half of one
		return fmt.Errorf("templates: %w", err)
	}
	return nil
}

// failedLately says whether it is too soon to try that shape again.
func (s Store) failedLately(key string) bool {
	f, err := s.LastFailure()
	return err == nil && f != nil && f.Key == key && time.Since(f.Time) < retryAfter
}

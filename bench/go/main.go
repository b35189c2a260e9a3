// A controller with client-go that does nothing but follow and report: what the operator is measured beside.
//
//	controller KUBECONFIG
//
// It lists and watches every Instance of the cluster, says `synced SECONDS COUNT` when it has them all, and then
// writes the status of each one whose spec is newer than it: the same body that the operator writes for a change
// without a plan. 32 workers; it reads nothing, keeps no journal and decides nothing. It ends on SIGTERM.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/workqueue"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const workers = 32

var instances = schema.GroupVersionResource{Group: "agentmetal.io", Version: "v1alpha1", Resource: "instances"}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx, os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "bench controller:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, kubeconfig string) error {
	began := time.Now()
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	config.QPS = -1 // the API server's own fairness is the limit, as for the others
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return err
	}
	queue := workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[string]())
	informer := dynamicinformer.NewDynamicSharedInformerFactory(client, 0).ForResource(instances).Informer()
	if err := follow(informer, queue); err != nil {
		return err
	}
	go informer.RunWithContext(ctx)
	if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
		return ctx.Err()
	}
	fmt.Printf("synced %.3f %d\n", time.Since(began).Seconds(), len(informer.GetStore().ListKeys()))
	work(ctx, client, informer.GetStore(), queue)
	return nil
}

func follow(informer cache.SharedIndexInformer, queue workqueue.TypedRateLimitingInterface[string]) error {
	if err := informer.SetTransform(withoutManagedFields); err != nil {
		return err
	}
	add := func(object any) {
		if key, err := cache.MetaNamespaceKeyFunc(object); err == nil {
			queue.Add(key)
		}
	}
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    add,
		UpdateFunc: func(_, object any) { add(object) },
	})
	return err
}

func withoutManagedFields(object any) (any, error) {
	if body, ok := object.(*unstructured.Unstructured); ok {
		body.SetManagedFields(nil)
	}
	return object, nil
}

func work(ctx context.Context, client dynamic.Interface, store cache.Store, queue workqueue.TypedRateLimitingInterface[string]) {
	var group sync.WaitGroup
	for range workers {
		group.Go(func() {
			for {
				key, shutdown := queue.Get()
				if shutdown {
					return
				}
				if err := settle(ctx, client, store, key); err != nil && ctx.Err() == nil {
					queue.AddRateLimited(key)
				} else {
					queue.Forget(key)
				}
				queue.Done(key)
			}
		})
	}
	<-ctx.Done()
	queue.ShutDown()
	group.Wait()
}

// settle restates the status of one object at its newest generation.
func settle(ctx context.Context, client dynamic.Interface, store cache.Store, key string) error {
	found, exists, err := store.GetByKey(key)
	if err != nil || !exists {
		return err
	}
	object := found.(*unstructured.Unstructured)
	seen, _, _ := unstructured.NestedInt64(object.Object, "status", "observedGeneration")
	if seen == object.GetGeneration() {
		return nil
	}
	body, err := json.Marshal(restated(object))
	if err != nil {
		return err
	}
	_, err = client.Resource(instances).Namespace(object.GetNamespace()).
		Patch(ctx, object.GetName(), types.MergePatchType, body, metav1.PatchOptions{}, "status")
	return err
}

func restated(object *unstructured.Unstructured) map[string]any {
	generation := object.GetGeneration()
	conditions, _, _ := unstructured.NestedSlice(object.Object, "status", "conditions") // a copy
	for _, condition := range conditions {
		condition.(map[string]any)["observedGeneration"] = generation
	}
	return map[string]any{
		"metadata": map[string]any{"resourceVersion": object.GetResourceVersion()},
		"status":   map[string]any{"observedGeneration": generation, "conditions": conditions},
	}
}
